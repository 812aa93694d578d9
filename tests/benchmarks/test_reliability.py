"""Each kind of event a few times, with real processes. `benchmarks.reliability` has the large counts."""

import json
import subprocess
import sys
from types import SimpleNamespace

import launching
import one_conv
import pytest
import tiny
import torch

from benchmarks import reliability
from benchmarks.reliability_helpers import disturbances, real_runs
from benchmarks.reliability_helpers.damage import Tally
from cil_func.runs import checkpoints


def test_each_kind_of_event_twice(tmp_path, capsys, monkeypatch):
    """A tiny run is killed in a save, and at a random moment. Other tests cover the other kinds with real processes."""
    settings = ("data.increment=4", "optim.epochs=1", "optim.batch_size=8", "optim.norm_batch=4", "memory.size=10")
    settings += (f"model.backbone={one_conv.NAME}",)
    monkeypatch.setattr(real_runs, "SETTINGS", tiny.settings(*settings))
    popen = {"Popen": lambda words, *, env, **settings: launching.fork(words, env=env)}
    monkeypatch.setattr(real_runs, "subprocess", SimpleNamespace(**(vars(subprocess) | popen)))
    monkeypatch.setattr(disturbances, "SYNCS", 20)  # nine saves, and results, and status.json
    path = tmp_path / "reliability.json"
    kinds = ("kill", "bit_flips", "truncations", "disk_full", "bad_configurations", "bad_folders")
    assert reliability.main(["--only", ",".join(kinds), "--count", "2", "--json", str(path)]) == 0
    figures = json.loads(path.read_text())["figures"]
    assert figures == {f"{what}_{kind}": count for kind in kinds for what, count in (("tried", 2), ("broken", 0))}
    assert capsys.readouterr().out.count("2 tried, 0 broken") == len(kinds)
    table = path.with_suffix(".md").read_text().splitlines()
    assert len(table) == 2 + len(kinds) and all(line.endswith("| 2 | 0 |") for line in table[2:])


def test_broken_promises_are_printed_and_are_exit_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(reliability.KINDS, "kill", lambda runs, count: Tally(count, ["after 3 s: other weights"]))
    assert reliability.main(["--only", "kill", "--json", str(tmp_path / "a.json")]) == 1
    assert "  after 3 s: other weights" in capsys.readouterr().out
    figures = json.loads((tmp_path / "a.json").read_text())["figures"]
    assert figures == {"tried_kill": 60, "broken_kill": 1}


def test_runs_that_differ_are_told_apart(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
        row = {"top1": 50.0, "seconds": {"train": 1.0 if name == "a" else 2.0}}
        (tmp_path / name / "results.json").write_text(json.dumps({"phases": [row]}))
        checkpoints.save(tmp_path / name / "checkpoints", {"exemplars": {"0": torch.arange(3)}}, {}, number=0)
    a, b = tmp_path / "a", tmp_path / "b"
    assert real_runs.difference(a, b) == ""
    checkpoints.save(b / "checkpoints", {"exemplars": {"0": torch.arange(4)}}, {}, number=1)
    assert real_runs.difference(a, b) == "other exemplars"
    (b / "results.json").write_text(json.dumps({"phases": [{"top1": 51.0, "seconds": {}}]}))
    assert real_runs.difference(a, b) == "other results"
    (b / "model.safetensors").write_bytes(b"others")
    assert real_runs.difference(a, b) == "other weights"


def test_a_case_that_raises_is_a_failure_and_the_others_go_on():
    def fails():
        raise OSError("no room")

    tally = disturbances.gather([lambda: "", fails, lambda: "other weights"], at_once=1)
    assert tally == Tally(3, ["OSError: no room", "other weights"])


def test_a_run_that_ends_too_early_is_replaced_by_another(tmp_path, monkeypatch):
    waits = iter([0, 60])
    started = []

    def start(directory, count):
        started.append((directory, count))
        return subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({next(waits)})"])

    small = real_runs.RealRuns(tmp_path, seed=0)
    monkeypatch.setattr(small, "start", start)
    directory, process = small.start_and_wait(2, 1.0)
    with process:
        assert process.poll() is None
        process.kill()
    assert [count for _, count in started] == [2, 2] and directory == started[1][0] != started[0][0]


@pytest.mark.parametrize(("state", "code", "updated", "sound"), [
    ("finished", 0, 100.5, True), ("finished", 0, 102.0, False), ("failed", 1, 100.5, False),
])  # fmt: skip
def test_a_signal_at_100_s_may_come_after_the_last_step_but_not_be_ignored(tmp_path, state, code, updated, sound):
    told = {"state": state, "exit_code": code, "message": "", "updated": updated}
    (tmp_path / "status.json").write_text(json.dumps(told))
    assert (disturbances._not_stopped(tmp_path, 100.0) == "") is sound


def test_an_unknown_kind_is_refused(capsys):
    with pytest.raises(SystemExit):
        reliability.main(["--only", "earthquake"])
    assert "--only 'earthquake'; of kill, " in capsys.readouterr().err
    assert set(reliability.KINDS) == set(reliability.COUNTS)
