"""Published rows: each is a configuration or says why not; the recorded table is that of the records; the command."""

import json
from pathlib import Path

import pytest

from benchmarks import recorded as collecting
from cil_func import config
from cil_func.__main__ import main
from cil_func.report import published
from cil_func.studies import published_rows, recorded, reproduce, sweep_jobs

ROOT = Path(__file__).parents[2]
ROWS = published.every()


def command(capsys, *words):
    """(exit status, stdout, stderr) of the command."""
    status = main(["reproduce", *map(str, words)])
    return (status, *capsys.readouterr())


def test_every_row_has_a_name_a_source_and_numbers_in_percent():
    assert len({row.name for row in ROWS}) == len(ROWS) > 100
    for row in ROWS:
        numbers = [value for value in (row.average, row.last) if value is not None]
        assert numbers and all(0 < value < 100 for value in numbers) and row.source and row.group.text, row.name
        assert sum(published.sizes_of(row.protocol)) == 100, row.name
    assert published.sizes_of("B50 inc 25") == [50, 25, 25] and published.sizes_of("B0 inc 20") == [20] * 5
    assert (published_rows.find("wa-b50-10").average, published_rows.find("wa-b50-10").within) == (64.2, 0.4)


def test_every_row_is_a_configuration_of_its_protocol_or_says_why_not():
    trained = [row for row in ROWS if not published_rows.why_not(row)]
    assert {"wa-b50-10", "icarl-b0-10", "der-b0-20", "lucir-b50-1-20"} <= {row.name for row in trained}
    for row in trained:
        made = published_rows.config_of(row)
        first, increment = published.increments_of(row.protocol)
        assert (made.method.name, made.data.initial_increment, made.data.increment) == (row.method, first, increment)
        a_class = 20 if row.group.name == "resnet32-20" or row.name == "lucir-b50-10-own" else 0
        assert made.memory.fixed_per_class == a_class, row.name
        assert row.recipe, row.name
    for name, preset in (("wa-b50-10", "cifar-survey"), ("gem-b0-10", "cifar-gem")):
        assert published_rows.config_of(published_rows.find(name)) == config.load(preset)


def test_the_recorded_runs_and_their_table_are_those_of_the_records():
    """`python -m benchmarks.recorded` writes both."""
    found = json.loads(json.dumps(collecting.collected()))
    assert json.loads(recorded.FILE.read_text()) == found
    for page, table in (
        (collecting.PAGE, recorded.markdown(found)), (collecting.README, recorded.markdown_of_presets(found))
    ):  # fmt: skip
        text = page.read_text()
        assert text.count(f"{collecting.MARK}\n{table}") == 1 and collecting.with_table(text, table) == text
    first, *others = recorded.of_row(published_rows.find("wa-b50-10"))  # the row's own recipe, then the best one first
    assert [entry["average"] for entry in others] == sorted((entry["average"] for entry in others), reverse=True)
    [fast] = [entry for entry in others if entry["record"] == "cifar-fast-cuda.json"]
    for entry, name, preset in ((first, "cifar-survey-cuda", "cifar-survey"), (fast, "cifar-fast-cuda", "cifar-fast")):
        figures = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())["figures"]
        assert (entry["average"], entry["last"]) == (figures["average_incremental_accuracy"], figures["last_accuracy"])
        assert entry["preset"] == preset
    assert first["differs"] == {} and fast["differs"]["optim.epochs"] == [170, 25]
    assert fast["differs"]["optim.schedule"] == ["milestones", "cosine"]


def test_another_table_takes_the_place_of_the_one_before():
    mark = collecting.MARK
    assert collecting.with_table(f"a\n{mark}\n| x |\n| y |\n\nb\n", "| z |\n") == f"a\n{mark}\n| z |\n\nb\n"
    assert collecting.with_table(f"a\n{mark}\nb\n", "| z |\n") == f"a\n{mark}\n| z |\n\nb\n"


def test_a_record_by_the_rows_own_recipe_differs_in_nothing():
    row = published_rows.find("icarl-b50-10")
    tables = config.to_dict(published_rows.config_of(row, ["run.seed=4", "run.device=cpu"]))
    figures = {"average_incremental_accuracy": 61.08, "last_accuracy": 52.5, "forgetting": 1.0, "seconds": 9.0}
    conditions = {
        "config": tables, "class_order": [0] * 100, "seed": 4, "device": "cpu", "precision": "float32"
    }  # fmt: skip
    entry = recorded.of_record({"figures": figures, "conditions": conditions}, "x.json")
    assert (entry["row"], entry["differs"], entry["seed"]) == ("icarl-b50-10", {}, 4)
    line = "| `icarl-b50-10` | 61.1 / 52.0 | 61.1 / 52.5 | +0.0 / +0.5 | 4 | nothing | `x.json` |"
    assert line in recorded.markdown([entry])
    conditions["config"] = config.to_dict(config.load("digits"))
    assert recorded.of_record({"figures": figures, "conditions": conditions}, "x.json") is None
    assert recorded.of_record({"figures": {"step": 1}, "conditions": {}}, "x.json") is None


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("data", "tests_on", "validation"), ("data", "phases", 1), ("data", "subset", "first-100"),
        ("data", "image_size", 16), ("data", "name", "imagenet100"), ("run", "extends", "another"),
        ("conditions", "class_order", list(range(20))),
    ],
)  # fmt: skip
def test_a_record_of_other_images_or_fewer_phases_is_of_no_row(table, key, value):
    record = json.loads((ROOT / "benchmarks/results/wa-b0-10-cpu.json").read_text())
    assert recorded.of_record(record, "x.json")["row"] == "wa-b0-10"
    conditions = record["conditions"]
    {**conditions["config"], "conditions": conditions}[table][key] = value
    assert recorded.of_record(record, "x.json") is None


def test_a_record_of_images_in_their_files_is_of_its_row():
    """Where the images were while it trained is no part of the recipe."""
    record = json.loads((ROOT / "benchmarks/results/wa-b0-10-cpu.json").read_text())
    record["conditions"]["config"]["data"]["storage"] = "streaming"
    assert recorded.of_record(record, "x.json")["differs"] == {}


def test_runs_that_differ_in_the_seed_are_one_line():
    """Of one device: the deviation is that of the seeds. 60, 62 and 64: 62 ± 2."""
    one = {
        "row": "wa-b50-10", "record": "a", "average": 60.0, "last": 50.0, "seed": 0, "device": "cpu",
        "precision": "float32", "preset": "cifar-fast", "differs": {"method.kd_weight": [2.0, 4.0]},
    }  # fmt: skip
    other = one | {"record": "d", "device": "a GPU", "average": 65.0}
    own = one | {"record": "e", "average": 30.0, "differs": {}, "preset": ""}
    runs = [other, own, *(one | {"record": name, "average": average, "seed": seed}
                          for name, average, seed in (("c", 64.0, 2), ("b", 62.0, 1))), one]  # fmt: skip
    assert [[each["record"] for each in group] for group in recorded.grouped(runs)] == [["e"], ["a", "b", "c"], ["d"]]
    again = one | {"record": "f", "average": 61.0}  # of a seed that there is already: not another of the deviation's
    names = [[each["record"] for each in group] for group in recorded.grouped([*runs, again])]
    assert names == [["e"], ["a", "b", "c"], ["d"], ["f"]]
    *_, line, _ = recorded.markdown(runs).splitlines()
    assert "| 62.0 ± 2.0 / 50.0 ± 0.0 | -2.2 / -6.0 | 0, 1, 2 | `method.kd_weight` 2.0 -> 4.0 | `a`, `b`, `c` |" in line
    _, _, *lines = recorded.markdown_of_presets([*runs, own | {"row": "replay-b50-10", "last": 40.0}]).splitlines()
    replay, wa, fast = lines  # one a command: of its devices the one with most runs
    assert "`python -m cil_func reproduce replay-b50-10`" in replay and "reproduce wa-b50-10`" in wa
    assert "`python train.py --config cifar-fast`" in fast and "| 62.0 ± 2.0 / 50.0 ± 0.0 | 0, 1, 2 | [`a`]" in fast


def test_the_list_shows_numbers_uncertainty_sources_and_what_is_recorded(capsys):
    status, out, err = command(capsys)
    assert (status, err) == (0, "")
    for name, *words in (
        ("wa", "~64.2", "~56.0", "62.8", "/", "54.5"),
        ("icarl", "61.1", "52.0", "62.1", "/", "53.4*"),
    ):
        [line] = [line for line in out.splitlines() if line.startswith(f"  {name}-b50-10 ")]
        assert line.split()[1:6] == words  # *: by another recipe
    assert "PyCIL's published figure" in out and "not trained here: its ResNet-18 has a stem for 32 pixels" in out
    _, out, _ = command(capsys, "--list", "--json", "beef-b50-10", "wa-b50-10")
    beef, wa = json.loads(out)
    assert beef["closed"] == "beef is no method of this package"
    assert wa["recorded"][0]["record"] == "cifar-survey-cuda.json"


def fake_runs(monkeypatch, numbers):
    """Lets each run be one that has finished with (average, last) of its seed. Returns the list of what is trained."""
    trained = []

    def train(jobs, **more):
        for job in jobs:
            trained.append(job.name)
            directory = job.log.parents[1] / job.name
            directory.mkdir(parents=True)
            settings = [job.arguments[at + 1] for at, word in enumerate(job.arguments) if word == "--set"]
            made = config.load(job.arguments[1], settings)
            (directory / "config.toml").write_text(config.to_toml(made))
            (directory / "status.json").write_text('{"state": "finished"}')
            average, last = numbers[made.run.seed]
            results = {"average_incremental_accuracy": average, "last_accuracy": last, "forgetting": None}
            (directory / "results.json").write_text(json.dumps(results))
        return {job.name: 0 for job in jobs}

    monkeypatch.setattr(sweep_jobs, "train", train)
    return trained


def test_a_row_is_trained_and_stands_beside_the_published_one(capsys, monkeypatch, tmp_path):
    trained = fake_runs(monkeypatch, {0: (63.0, 55.0), 1: (65.0, 58.0)})
    flags = ["wa-b50-10", "--runs", tmp_path, "--seeds", "0,1", "--set", "optim.epochs=150"]
    status, out, _ = command(capsys, *flags)
    assert status == 0 and trained == ["wa-b50-10_seed-0", "wa-b50-10_seed-1"]
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "average ~64.2 ± 0.4 64.0 ± 1.4 -0.2" in lines and "last ~56.0 ± 0.4 56.5 ± 2.1 +0.5" in lines
    assert "- `optim.epochs` 170 -> 150" in lines and any("torch's uniform ones here" in line for line in lines)
    again, out, _ = command(capsys, *flags, "--json")
    [found] = json.loads(out)
    assert again == 0 and len(trained) == 2 and found["ours"]["last"]["difference"] == 0.5


def test_other_class_orders_are_told_to_differ(capsys, monkeypatch, tmp_path):
    fake_runs(monkeypatch, {0: (63.0, 55.0)})
    status, out, _ = command(capsys, "wa-b50-10", "--runs", tmp_path, "--orders", "1")
    assert status == 0 and "  - `data.class_order`\n" in out


def test_printed_commands_are_those_of_train(capsys, tmp_path):
    status, out, _ = command(capsys, "lwf-b0-20", "icarl-b50-10", "--print", "--runs", tmp_path / "none")
    first, second = out.splitlines()
    assert status == 0 and "--config cifar-survey --set method.name=lwf" in first and "optim.epochs=250" in first
    assert second.endswith("icarl-b50-10_seed-0") and not (tmp_path / "none").exists()


def test_a_run_that_fails_gives_its_exit_status(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(sweep_jobs, "train", lambda jobs, **more: {jobs[0].name: 3})
    status, out, _ = command(capsys, "wa-b50-10", "--runs", tmp_path)
    assert status == 3 and "runs: 0 of 1" in out


@pytest.mark.parametrize(("stop", "status"), [(KeyboardInterrupt(), 130), (sweep_jobs.Interrupted(15), 143)])
def test_a_stop_is_one_line(capsys, monkeypatch, tmp_path, stop, status):
    """Ctrl-C before or after the runs, while no signal is caught, too."""

    def train(jobs, **more):
        raise stop

    monkeypatch.setattr(sweep_jobs, "train", train)
    line = "reproduce: stopped, and what the runs have is saved; the same command goes on\n"
    assert command(capsys, "wa-b50-10", "--runs", tmp_path) == (status, "", line)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["wa-b50-11"], "is no published row; did you mean wa-b50-1"), (["x"], "--list shows all"),
        (["wa-b50-10", "wa-b50-10"], '"wa-b50-10" comes twice'),
        (["beef-b50-10"], "beef-b50-10 can't be trained here: beef is no method of this package"),
        (["wa-b0-10-resnet18"], "its ResNet-18 has a stem for 32 pixels"),
        (["wa-b50-10", "--seeds", "a"], "--seeds a: give whole numbers"), (["wa-b50-10", "--jobs", "0"], "--jobs 0"),
        (["wa-b50-10", "--set", "optim.epoch=1"], "optim.epoch"),
        (["wa-b50-10", "--set", "memory.size=100"], "--set memory.size: is what wa-b50-10 is about"),
        (["wa-b50-10", "--set", "data.increment=5"], "--set data.increment: is what wa-b50-10 is about"),
        (["wa-b50-10", "--set", "data.image_size=16"], "size: 16, and wa-b50-10 is about CIFAR-100; 0 or 32"),
        (["wa-b50-10", "--set", "data.name=digits"], '"digits", and wa-b50-10 is about CIFAR-100; "cifar100" or'),
        (["wa-b50-10", "--set", "data.subset=first-100"], "--set data.subset: is what wa-b50-10 is about"),
        (["wa-b50-10", "--set", "run.extends=runs/a"], "--set run.extends: is what wa-b50-10 is about"),
        (["wa-b50-10", "--set", "run.seed=5"], "--set run.seed: give it by --seeds"),
        (["wa-b50-10", "--orders", "1", "--set", "data.order_seed=5"], "--set data.order_seed: give it by --orders"),
        (["wa-b50-10", "--sets", "a"], "--sets"), (["wa-b50-10", "--runs", __file__], "is a file; name a directory"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(words, said, capsys, monkeypatch):
    monkeypatch.setattr(sweep_jobs, "train", None)
    status, out, err = command(capsys, *words)
    assert (status, out) == (2, "") and err.count("\n") == 1 and said in err


def test_a_directory_with_another_run_is_refused(capsys, tmp_path):
    (tmp_path / "wa-b50-10_seed-0").mkdir()
    (tmp_path / "wa-b50-10_seed-0/config.toml").write_text(config.to_toml(config.load("digits")))
    status, _, err = command(capsys, "wa-b50-10", "--runs", tmp_path)
    assert status == 2 and "holds a run of another configuration" in err
    assert err.endswith("give the same, or another --runs\n")


def test_diff_takes_a_published_row(capsys):
    assert main(["diff", "cifar-survey", "wa-b50-10", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["differences"] == [] and found["b"] == {"name": "wa-b50-10", "is": "published row", "partial": ""}
    assert main(["diff", "cifar-fast", "beef-b50-10"]) == 2
    assert "beef is no method of this package" in capsys.readouterr().err


def test_what_differs_from_published_code_is_told_in_words():
    assert recorded.differing({}) == "nothing"
    told = {"optim.first_phase.epochs": [3, None], "optim.first_phase.milestones": [[1], []], "optim.epochs": [3, None]}
    assert recorded.differing(told) == "`optim.epochs` 3 -> not set, `optim.first_phase`"
    assert [line for line in reproduce.list_lines([]) if line]
