"""The tables of all methods: what is trained, what is read, and the means over seeds."""

import json
from contextlib import nullcontext

import pytest

from benchmarks import all_methods
from cil_func import methods
from cil_func.config import load
from cil_func.errors import ConfigError
from cil_func.runs import network_of


def store(folder, method: str, seed: int, top1: list[float], state: str = "finished") -> None:
    """Writes the run directory of a method and seed, whose accuracies are `top1`."""
    directory = folder / f"{method}-{seed}"
    directory.mkdir(parents=True)
    (directory / "status.json").write_text(json.dumps({"state": state}))
    phases = [
        {**dict.fromkeys(all_methods.PHASES), "top1": value, "seconds": {"train": 2.0, "select": 1.0}} for value in top1
    ]
    summary = {key: sum(top1) / len(top1) for key in all_methods.SUMMARY.values()} | {"last_accuracy": top1[-1]}
    config = {"data": {"path": "", "increment": 2}, "run": {"compile": False}}
    environment = {"torch": "2.14"}
    found = {"method": method, "seed": seed, "phases": phases, "config": config, "environment": environment, **summary}
    (directory / "results.json").write_text(json.dumps(found))


@pytest.fixture
def swept(monkeypatch):
    """The arguments of each sweep; none trains, and each has the exit status 0, or 3 for seed 7."""
    words: list[list[str]] = []
    monkeypatch.setattr(all_methods.sweep, "main", lambda given: words.append(given) or 3 * ("7" in given))
    return words


def test_finished_runs_are_read(tmp_path, swept, capsys):
    store(tmp_path, "replay", 1, [90.0, 30.0])
    store(tmp_path, "wa", 0, [100.0, 80.0])
    store(tmp_path, "wa", 1, [100.0, 90.0])
    store(tmp_path, "lwf", 0, [100.0, 50.0], state="running")
    flags = ["--runs", str(tmp_path), "--json", str(tmp_path / "table.json"), "--commit", "abc"]
    assert all_methods.main(["digits", *flags, "--methods", "wa", "--seeds", "0,1"]) == 0
    text = (tmp_path / "table.json").read_text()
    record = json.loads(text)
    assert [(row["method"], row["seed"]) for row in record["runs"]] == [("wa", 0), ("wa", 1), ("replay", 1)]
    assert sum('"seed"' in line for line in text.splitlines()) == 3  # a line for each run
    figures = record["figures"]
    assert (figures["wa_seeds"], figures["wa_average"], figures["wa_last"]) == (2, 92.5, 85.0)
    assert figures["wa_last_deviation"] == 7.0711  # of 80 and 90: the root of (25 + 25) / 1
    assert figures["wa_seconds"] == 6  # two phases of 3 seconds
    assert figures["replay_last"] == 30.0 and "replay_last_deviation" not in figures
    assert capsys.readouterr().out.splitlines()[2:4] == [
        "| wa | 2 | 92.5 ± 3.5 | 85.0 ± 7.1 | 92.5 ± 3.5 |", "| replay | 1 | 60.0 | 30.0 | 60.0 |",
    ]  # fmt: skip


def test_a_run_keeps_its_commit_and_its_processor(tmp_path, swept, monkeypatch):
    flags = ["--runs", str(tmp_path), "--json", str(tmp_path / "table.json"), "--methods", "wa"]
    store(tmp_path, "wa", 0, [100.0, 80.0])
    assert all_methods.main(["digits", *flags, "--seeds", "0", "--commit", "abc"]) == 0
    store(tmp_path, "wa", 1, [100.0, 90.0])
    elsewhere = all_methods.measure.conditions("cpu", commit="def") | {"processor": "another"}
    monkeypatch.setattr(all_methods.measure, "conditions", lambda device, commit: elsewhere)
    assert all_methods.main(["digits", *flags, "--seeds", "0,1", "--commit", "def"]) == 0
    rows = json.loads((tmp_path / "table.json").read_text())["runs"]
    assert [(each["seed"], each["commit"], each["processor"] == "another") for each in rows] == [
        (0, "abc", False), (1, "def", True)
    ]  # fmt: skip


def test_runs_whose_directories_are_gone_stay_unless_the_settings_changed(tmp_path, swept):
    flags = ["--json", str(tmp_path / "table.json"), "--methods", "wa", "--seeds", "0"]
    found = []
    for name, folder_of in {"replay": "first", "wa": "second", "lwf": "third"}.items():
        store(tmp_path / folder_of, name, 0, [100.0, 80.0])
        if name == "lwf":
            path = tmp_path / "third/lwf-0/results.json"
            path.write_text(path.read_text().replace('"increment": 2', '"increment": 5'))
        runs = ["--runs", str(tmp_path / folder_of), "--commit", folder_of]
        assert all_methods.main(["digits", *flags, *runs]) == 0
        record = json.loads((tmp_path / "table.json").read_text())
        found.append([(row["method"], row["commit"]) for row in record["runs"]])
        assert {key.removesuffix("_seeds") for key in record["figures"] if key.endswith("_seeds")} == {
            method for method, _ in found[-1]
        }
    assert found == [[("replay", "first")], [("wa", "second"), ("replay", "first")], [("lwf", "third")]]


def test_each_seed_is_a_sweep_and_a_failure_ends_the_command(tmp_path, swept):
    store(tmp_path, "wa", 0, [100.0])
    flags = ["--runs", str(tmp_path), "--json", str(tmp_path / "table.json"), "--jobs", "2", "--methods", "wa,replay"]
    assert all_methods.main(["digits", *flags, "--seeds", "0,7,1", "--set", "optim.epochs=2"]) == 3
    settings = ["--set", "run.threads=1", "--set", "run.device=cpu", "--set", "optim.epochs=2"]
    assert swept == [
        [str(tmp_path), "--grid", "method.name=wa,replay", "--jobs", "2", *settings, "--seeds", seed]
        for seed in ("0", "7")
    ]
    assert json.loads((tmp_path / "table.json").read_text())["figures"]["wa_seeds"] == 1  # what there is, is written


@pytest.mark.parametrize(("first", "ticks"), [(0, (2, 4)), (50, (50, 52))])
def test_the_figure_is_drawn_from_the_record(tmp_path, first, ticks):
    store(tmp_path, "wa", 0, [100.0, 80.0])
    record = {
        "conditions": {"config": {"data": {"initial_increment": first, "increment": 2}}},
        "runs": list(map(all_methods.row, all_methods.read(tmp_path))),
    }
    drawn = all_methods.draw(record)
    assert b"<svg" in drawn[:200]
    assert [f">{tick}</text>".encode() in drawn for tick in ticks] == [True, True]


def test_the_short_study_of_cifar_is_a_sweep_of_its_preset(tmp_path, swept):
    store(tmp_path, "wa", 0, [100.0])
    path = tmp_path / "cifar-short-cpu.json"
    assert all_methods.main(["cifar-short", "--runs", str(tmp_path), "--json", str(path)]) == 0
    assert json.loads(path.read_text())["name"] == "cifar-short"
    (words,) = swept
    options = all_methods.sweep._parse(words)
    names = [name for name in methods.TABLE if name != "podnet"]
    assert options.seeds == "0" and options.grid == [f"method.name={','.join(names)}"]
    config = load(options.config, options.set)
    for name in methods.TABLE:  # those that are left out are those that would be refused
        method = methods.make(name, methods.Options())
        refused = name not in names
        with pytest.raises(ConfigError) if refused else nullcontext():
            network_of.check_maps(config, method, (32, 32))
    assert (config.model.backbone, config.data.initial_increment, config.data.increment) == ("resnet8", 50, 10)
    assert {config.optim_of_phase(phase).epochs for phase in range(6)} == {10}
