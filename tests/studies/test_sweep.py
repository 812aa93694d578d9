"""Sweeps: which runs there are, what the table says, and what a sweep does with runs that are there."""

import json
import re
import shlex

import one_conv
import pytest
import tiny

from cil_func import config
from cil_func.config import names
from cil_func.errors import ConfigError
from cil_func.report import page
from cil_func.runs import setup
from cil_func.runs.method_of import method_of
from cil_func.studies import sweep, sweep_jobs, sweep_plan, sweep_table

TINY = tiny.settings(
    "run.compile=false", "optim.epochs=1", f"model.backbone={one_conv.NAME}", "data.increment=2",
    folder=tiny.images(4, 6),
)  # fmt: skip


def test_the_runs_are_all_combinations_group_after_group():
    found = sweep_plan.runs(["method.name=wa,replay", "optim.learning_rate=0.1, 0.2"], ["0", "1"], [])
    assert len(found) == 8 and found[0].name == "name-wa_learning_rate-0.1_seed-0"
    assert found[1].settings == ("method.name=wa", "optim.learning_rate=0.1", "run.seed=1")
    assert [run.group for run in found[::2]] == [
        (f"method.name={name}", f"optim.learning_rate={rate}") for name in ("wa", "replay") for rate in ("0.1", "0.2")
    ]
    [ordered] = sweep_plan.runs([], [], ["3"])
    assert ordered.settings == ("data.class_order=shuffled", "data.order_seed=3") and ordered.name == "order-3"
    [spaced] = sweep_plan.runs([f"method .options. {'größe' * 9} = 1"], [], [])
    assert spaced.settings == (f"method.options.{'größe' * 9}=1",)
    [lists] = sweep_plan.runs(["optim.milestones=[1, 2]"], [], [])
    assert lists.group == ("optim.milestones=[1, 2]",)


@pytest.mark.parametrize(
    ("grid", "seeds", "words"),
    [
        (["lr=1"], [], "write --grid table.key=v1,v2"), (["optim.epochs"], [], "write --grid table.key=v1,v2"),
        (["optim.epochs=1,,2"], [], "write --grid table.key=v1,v2"), (["optim.epochs=1,1"], [], "a value comes twice"),
        (["run.seed=1,2"], ["0"], "run.seed comes twice"),
        (["optim.epochs=1", "optim.epochs=2"], [], "optim.epochs comes twice"),
        (["run .seed=1,2"], ["0"], "run.seed comes twice"),
    ],
)  # fmt: skip
def test_a_grid_that_can_not_be_is_one_line(grid, seeds, words):
    with pytest.raises(ConfigError, match=words):
        sweep_plan.runs(grid, seeds, [])


def test_mistakes_are_found_before_anything_is_trained(tmp_path, capsys):
    for flags, words in (
        (["--grid", "method.name=wa,wb"], "method.name"), (["--seeds", "0,x"], "--seeds 0,x"),
        (["--seeds", "0,0"], "each once"), (["--jobs", "0"], "--jobs 0"), (["--config", "nothing"], "no such file"),
        (["--set", "optim.epoch=1"], "--set optim.epoch: "), (["--grid", "optim.epoch=1,2"], "--grid optim.epoch: "),
        (["--seeds", "0", "--set", "run .seed=5"], "--set run.seed: give it by --seeds"),
        (["--orders", "0", "--set", "data.class_order=sorted"], "--set data.class_order: give it by --orders"),
        (["--grid", "method.name=ewc,wa", "--set", "method.options.strength=9"], "strength"),
    ):  # fmt: skip
        assert sweep.main([str(tmp_path / "none"), *flags]) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert len(said) == 1 and words in said[0]
    assert not (tmp_path / "none").exists()


def finished(directory, average, last):
    directory.mkdir(parents=True)
    (directory / "status.json").write_text('{"state": "finished"}')
    results = {"average_incremental_accuracy": average, "last_accuracy": last, "forgetting": None}
    (directory / "results.json").write_text(json.dumps(results))


def test_runs_may_have_own_files_with_other_modules_of_one_name_beside_them(tmp_path):
    """Each run is a process of its own, so that only two files of one run must not."""
    for name, loss in (("one", "1.0"), ("two", "2.0")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "helper.py").write_text(f"clamp = {loss}\n")
        (tmp_path / name / "own.py").write_text(
            "from dataclasses import replace\nfrom cil_func.methods import wa\n\n\ndef make(options):\n"
            "    import helper\n    return replace(wa.make(options), clamp=helper.clamp)\n"
        )
    places = [f"{tmp_path / name / 'own.py'}:make" for name in ("one", "two", "one")]
    planned = sweep_plan.runs([f"method.name={','.join(places[:2])}"], ["0", "1"], [])
    found = sweep_plan.checked("digits", [], planned)
    assert [each.method.name for each in found] == [places[0]] * 2 + [places[1]] * 2
    names.forget()
    assert method_of(found[0]).clamp == 1.0
    both = ["method.name=" + places[0], "optim.name=" + places[1]]
    with pytest.raises(ConfigError, match=r"imports helper from .*two, and .* imports another helper from"):
        setup.build(config.load("digits", both))
    names.forget()


def test_the_table_has_means_deviations_and_paired_differences(tmp_path):
    planned = sweep_plan.runs(["method.name=wa,replay"], ["0", "1", "2"], [])
    numbers = {"name-wa": [(90, 80), (92, 84), (94, 82)], "name-replay": [(70, 30), (71, 38), None]}
    for name, rows in numbers.items():
        for seed, row in enumerate(rows):
            if row:
                finished(tmp_path / f"{name}_seed-{seed}", *row)
    first, second = sweep_table.collect(tmp_path, planned)
    assert first["average_incremental_accuracy"]["mean"] == 92 and first["last_accuracy"]["deviation"] == 2
    assert first["last_accuracy"]["difference"] is None and (second["n"], second["of"]) == (2, 3)
    difference = second["last_accuracy"]["difference"]  # 30 - 80 and 38 - 84
    assert (difference["mean"], difference["n"]) == (-48, 2)
    assert difference["deviation"] == pytest.approx(2 * 2**0.5)
    assert sweep_table.markdown([first, second]).splitlines()[2:] == [
        "| `name=wa` | 3 | 92.0 ± 2.0 | 82.0 ± 2.0 | - | - |",
        "| `name=replay` | 2 of 3 | 70.5 ± 0.7 | 34.0 ± 5.7 | - | -48.0 ± 2.8 (n = 2) |",
    ]


def test_the_table_calls_groups_by_their_keys_and_whole_values(tmp_path):
    def names(*grid):
        rows = sweep_table.markdown(sweep_table.collect(tmp_path, sweep_plan.runs(grid, ["0"], []))).splitlines()[2:]
        return [re.match(r"\| `(.*?)` \| 0 of 1 \|", row)[1] for row in rows]

    assert names("optim.learning_rate=0.05,0.1") == ["learning_rate=0.05", "learning_rate=0.1"]
    assert names("method.name=tests/own/adjusted_replay.py:make") == ["name=tests/own/adjusted_replay.py:make"]
    assert names("optim.epochs=3", "optim.first_phase.epochs=4") == ["optim.epochs=3, optim.first_phase.epochs=4"]
    assert names("method.options.patterns=a|b") == [r"patterns=a\|b"] and names() == ["all"]


def test_the_table_says_if_runs_ended_on_different_devices(tmp_path):
    planned = sweep_plan.runs([], ["0", "1"], [])
    for run, device in zip(planned, ("cpu (x86_64)", "a GPU"), strict=True):
        assert "devices" not in sweep_table.markdown(sweep_table.collect(tmp_path, planned))
        finished(tmp_path / run.name, 90, 80)
        results = json.loads((tmp_path / run.name / "results.json").read_text()) | {"environment": {"device": device}}
        (tmp_path / run.name / "results.json").write_text(json.dumps(results))
    text = sweep_table.markdown(sweep_table.collect(tmp_path, planned))
    assert text.endswith("\n\nThe runs ended on different devices: a GPU; cpu (x86_64).\n")


def with_results(directory, data, **more):
    """Writes a finished run whose results also have a [data] table and `more`."""
    finished(directory, 90, 80)
    results = json.loads((directory / "results.json").read_text()) | {"config": {"data": data}} | more
    (directory / "results.json").write_text(json.dumps(results))


def test_the_table_says_which_images_its_runs_were_measured_on(tmp_path):
    kept = {"tests_on": "validation", "validation": 0.3}
    rows = (
        ("test", [{}, {}], None), ("validation", [kept, kept], page.ON_VALIDATION),
        ("both", [{}, kept], "Careful: some of these runs are measured on test images and some on validation images"),
        ("shares", [kept, kept | {"validation": 0.2}], "Careful: these runs differ in data"),
    )  # fmt: skip
    for name, tables, words in rows:
        planned = sweep_plan.runs(["optim.epochs=1,2"], [], [])
        for run, data in zip(planned, tables, strict=True):
            with_results(tmp_path / name / run.name, {"name": "digits", **data})
        lines = sweep_table.markdown(sweep_table.collect(tmp_path / name, planned)).splitlines()[4:]
        assert (lines[1].startswith(words) and len(lines) == 2) if words else not lines


def test_the_table_says_if_a_mean_is_of_runs_on_different_images(tmp_path):
    """Whose test images are the same; those of packed images, say, have other fingerprints."""
    for storage, expected in (("resident", True), ("packed", False)):
        planned = sweep_plan.runs([], ["0", "1"], [])
        for run, place, images in zip(planned, ("resident", storage), "ab", strict=True):
            data = {"name": "image_folder", "storage": place}
            with_results(tmp_path / storage / run.name, data, data_fingerprint=images, tests_fingerprint="t")
        text = sweep_table.markdown(sweep_table.collect(tmp_path / storage, planned))
        assert ("Careful: these runs differ in data" in text) is expected


def test_names_are_short_and_different():
    keys = [f"method.options.a_rather_long_name_of_an_option_{number}=1" for number in range(4)]
    found = sweep_plan.runs([*keys, "data.increment=[1,1,8],[1,18]"], ["0", "1"], [])
    names = [run.name for run in found]
    assert len(set(names)) == 4 and max(map(len, names)) <= 120
    one, two = sweep_plan.runs(["data.increment=[1,1,8],[1,18]"], [], [])
    assert one.name != two.name and one.name.startswith("increment-118-")
    assert sweep_plan.runs(["data.increment=[1,1,8],[1,18]"], [], [])[0].name == one.name


def test_runs_of_a_sweep_may_be_of_different_devices(tmp_path, capsys, monkeypatch):
    """One was finished on a GPU, and the sweep goes on without one. What else differs is refused all the same."""
    monkeypatch.setattr(sweep_jobs, "train", lambda jobs, **more: {})
    made = config.load("digits", ["run.seed=0", "run.device=cuda"])
    finished(tmp_path / "seed-0", 90, 80)
    (tmp_path / "seed-0/config.toml").write_text(config.to_toml(made))
    assert sweep.main([str(tmp_path), "--seeds", "0,1", "--set", "run.device=cpu", "--set", "run.threads=2"]) == 0
    assert "2 runs, 1 of them finished before" in capsys.readouterr().out
    assert sweep.main([str(tmp_path), "--seeds", "0", "--set", "optim.epochs=3"]) == 2


def test_a_finished_run_whose_results_are_lost_is_not_taken_for_one(tmp_path, capsys, monkeypatch):
    """Its command makes them again. Those of another version, which it leaves, are a line and a status."""
    started = []

    def fake(jobs, **more):
        started.extend(job.name for job in jobs)
        return dict.fromkeys(started, 0)

    monkeypatch.setattr(sweep_jobs, "train", fake)
    for seed, text in enumerate(("", '{"last_accuracy": ', '{"last_accuracy": 80.0}')):
        finished(tmp_path / f"seed-{seed}", 90, 80)
        made = config.to_toml(config.load("digits", [f"run.seed={seed}"]))
        (tmp_path / f"seed-{seed}/config.toml").write_text(made)
        (tmp_path / f"seed-{seed}/results.json").write_text(text)
    finished(tmp_path / "seed-3", 90, 80)
    (tmp_path / "seed-3/config.toml").write_text(config.to_toml(config.load("digits", ["run.seed=3"])))
    assert sweep.main([str(tmp_path), "--seeds", "0,1,2,3"]) == 5
    said = capsys.readouterr()
    assert started == ["seed-0", "seed-1", "seed-2"] and "| `all` | 1 of 4 |" in said.out
    assert said.err.count("\n") == 1 and "seed-0 is finished, and its results.json lacks" in said.err


@pytest.mark.parametrize("wrong", [
    {"environment": "cpu"}, {"last_accuracy": "80"}, {"forgetting": True}, {"config": {"data": "digits"}},
    {"own_code": "own.py"}, {"phases": [1]}, {"phases": [{"classes_seen": 2}]},
])  # fmt: skip
def test_a_run_with_damaged_results_is_not_in_the_table(wrong, tmp_path):
    planned = sweep_plan.runs([], ["0", "1"], [])
    with_results(tmp_path / "seed-0", {}, environment={"device": "cpu"})
    with_results(tmp_path / "seed-1", {}, **wrong)
    [entry] = sweep_table.collect(tmp_path, planned)
    assert entry["runs"] == ["seed-0"]


def test_a_key_without_effect_is_told_with_the_combinations_that_it_concerns(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sweep_jobs, "train", lambda jobs, **more: {})
    aligned = ["--grid", "method.align=true,false", "--seeds", "0,1"]
    line = 'sweep: warning: method.align has no effect with method.name = "replay"'
    for methods in ("replay,wa", "wa,replay"):
        assert sweep.main([str(tmp_path), "--grid", f"method.name={methods}", *aligned]) == 0
        assert capsys.readouterr().err == f"{line} (2 of 4 combinations)\n"
    assert sweep.main([str(tmp_path), "--set", "method.name=replay", *aligned]) == 0
    assert capsys.readouterr().err == f"{line}\n"


def test_printed_commands_are_those_of_train(tmp_path, capsys):
    assert sweep.main([str(tmp_path), "--grid", "optim.epochs=1,2", "--set", "memory.size=20", "--print"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    words = shlex.split(second)
    assert words[:4] == ["python", "-m", "cil_func", "train"] and words[-1] == str(tmp_path / "epochs-2")
    assert words[4:6] == ["--config", "digits"] and "memory.size=20" in words and "optim.epochs=2" in words
    assert not list(tmp_path.iterdir()) and "optim.epochs=1" in first


def test_one_seed_may_be_set_where_no_flag_gives_it(tmp_path, capsys):
    words = ["--set", "run.seed=5", "--set", "data.class_order=sorted", "--print"]
    assert sweep.main([str(tmp_path), *words]) == 0 and "--set run.seed=5" in capsys.readouterr().out
    assert sweep.main([str(tmp_path), *words[2:], "--seeds", "0"]) == 0


def test_a_directory_with_another_run_is_refused(tmp_path, capsys):
    (tmp_path / "epochs-1").mkdir()
    (tmp_path / "epochs-1" / "config.toml").write_text(config.to_toml(config.load("digits", ["run.seed=9"])))
    assert sweep.main([str(tmp_path), "--grid", "optim.epochs=1"]) == 2
    err = capsys.readouterr().err
    assert "holds a run of another configuration" in err and err.endswith("give the same, or another DIR\n")
    (tmp_path / "epochs-1" / "config.toml").rename(tmp_path / "epochs-1" / "results.json")
    assert sweep.main([str(tmp_path), "--grid", "optim.epochs=1"]) == 2
    err = capsys.readouterr().err
    assert "holds results.json and no config.toml" in err and err.endswith("choose another DIR\n")


def test_a_run_that_fails_does_not_stop_the_others(tmp_path, capsys):
    flags = [word for setting in TINY for word in ("--set", setting)]
    grid = ["--grid", "memory.size=3,20", "--grid", "method.name=wa"]  # 3 exemplars can't be had of four classes
    assert sweep.main([str(tmp_path), *flags, *grid]) == 3
    said = capsys.readouterr().out
    assert "size-3_name-wa: failed with exit status 3" in said and "memory.size" in said
    assert "size-20_name-wa: finished" in said and "| `size=20, name=wa` | 1 |" in said
    table = (tmp_path / "table.md").read_text()
    assert sweep.main([str(tmp_path), *flags, *grid]) == 3  # the finished one isn't trained again
    assert "2 runs, 1 of them finished before" in capsys.readouterr().out
    assert (tmp_path / "table.md").read_text() == table


def test_a_folder_that_can_not_be_made_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert sweep.main([str(tmp_path / "file"), "--seeds", "0"]) == 74
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"sweep: {tmp_path / 'file' / 'logs'}: Not a directory; ")
