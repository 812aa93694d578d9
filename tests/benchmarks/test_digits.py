"""The table of all methods on the digits: what is trained, what is read, and the means over seeds."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import digits


def store(folder, method: str, seed: int, top1: list[float], state: str = "finished") -> None:
    """Writes the run directory of a method and seed, whose accuracies are `top1`."""
    directory = folder / f"{method}-{seed}"
    directory.mkdir(parents=True)
    (directory / "status.json").write_text(json.dumps({"state": state}))
    phases = [
        {**dict.fromkeys(digits.PHASES), "top1": value, "seconds": {"train": 2.0, "select": 1.0}} for value in top1
    ]
    summary = {key: sum(top1) / len(top1) for key in digits.SUMMARY.values()} | {"last_accuracy": top1[-1]}
    config = {"data": {"path": "", "increment": 2}, "run": {"compile": False}}
    found = {"method": method, "seed": seed, "phases": phases, "config": config, "environment": {}, **summary}
    (directory / "results.json").write_text(json.dumps(found))


@pytest.fixture
def started(monkeypatch):
    """The words of each training that is started; none trains, and each has exit status 3."""
    words: list[list[str]] = []

    def run(command, **_):
        words.append(command[2:])
        return SimpleNamespace(returncode=3)

    monkeypatch.setattr(digits, "subprocess", SimpleNamespace(run=run))
    return words


def test_finished_runs_are_read_and_not_trained_again(tmp_path, started, capsys):
    store(tmp_path, "replay", 1, [90.0, 30.0])
    store(tmp_path, "wa", 0, [100.0, 80.0])
    store(tmp_path, "wa", 1, [100.0, 90.0])
    store(tmp_path, "lwf", 0, [100.0, 50.0], state="running")
    flags = ["--runs", str(tmp_path), "--json", str(tmp_path / "table.json"), "--commit", "abc"]
    assert digits.main([*flags, "--methods", "wa", "--seeds", "0,1"]) == 0 and not started
    text = (tmp_path / "table.json").read_text()
    record = json.loads(text)
    assert [(row["method"], row["seed"]) for row in record["runs"]] == [("wa", 0), ("wa", 1), ("replay", 1)]
    assert sum('"seed"' in line for line in text.splitlines()) == 3  # a line for each run
    figures = record["figures"]
    assert (figures["wa_seeds"], figures["wa_average"], figures["wa_last"]) == (2, 92.5, 85.0)
    assert figures["wa_last_deviation"] == 7.0711  # of 80 and 90: the root of (25 + 25) / 1
    assert figures["wa_seconds"] == 6  # two phases of 3 seconds
    assert figures["replay_last"] == 30.0 and "replay_last_deviation" not in figures
    name, *numbers = capsys.readouterr().out.splitlines()[1].split()
    assert name == "wa" and [float(number) for number in numbers] == pytest.approx(
        [2, 92.5, 3.5355, 85, 7.0711, 92.5, 6], abs=1e-3
    )


def test_a_run_keeps_the_commit_that_it_was_trained_at(tmp_path, started):
    flags = ["--runs", str(tmp_path), "--json", str(tmp_path / "table.json"), "--methods", "wa"]
    store(tmp_path, "wa", 0, [100.0, 80.0])
    assert digits.main([*flags, "--seeds", "0", "--commit", "abc"]) == 0
    store(tmp_path, "wa", 1, [100.0, 90.0])
    assert digits.main([*flags, "--seeds", "0,1", "--commit", "def"]) == 0
    rows = json.loads((tmp_path / "table.json").read_text())["runs"]
    assert [(each["seed"], each["commit"]) for each in rows] == [(0, "abc"), (1, "def")]


def test_a_stopped_run_goes_on_and_a_failure_ends_the_command(tmp_path, started, capsys):
    store(tmp_path, "wa", 0, [100.0], state="stopped")
    assert (
        digits.main(["--runs", str(tmp_path), "--methods", "wa,replay", "--seeds", "0", "--set", "optim.epochs=2"]) == 3
    )
    ((out, directory, *settings),) = started
    assert (out, directory) == ("--out", str(tmp_path / "wa-0"))
    assert settings[1::2] == ["method.name=wa", "run.seed=0", "run.threads=1", "run.device=cpu", "optim.epochs=2"]
    assert "benchmarks.digits: wa, seed 0, ended with exit status 3" in capsys.readouterr().err


def test_the_figure_is_drawn_from_the_record(tmp_path):
    store(tmp_path, "wa", 0, [100.0, 80.0])
    record = {
        "conditions": {"config": {"data": {"increment": 2}}},
        "runs": list(map(digits.row, digits.read(tmp_path))),
    }
    assert b"<svg" in digits.draw(record)[:200]
