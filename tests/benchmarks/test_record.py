"""The record of a run: its figures, and where it was begun and gone on with."""

import json
import sys

import pytest

from benchmarks import record


@pytest.mark.parametrize("among_the_results", [True, False])
def test_a_run_that_moved_says_where_it_was_trained(tmp_path, monkeypatch, capsys, among_the_results):
    """A record among the results has the tables of published rows written anew, after the record itself."""
    run = tmp_path / "run"
    run.mkdir()
    phase = {
        "phase": 0,
        "num_classes": 2,
        "fair_share": 1.0,
        "seconds": {"train": 2.0},
        **dict.fromkeys(record.COLUMNS),
    }
    results = {
        "method": "wa", "seed": 0, "class_order": [0, 1], "phases": [phase | {"top1": 50.0}], "last_accuracy": 50.0,
        "average_incremental_accuracy": 50.0, "forgetting": 0.0, "environment": {"device": "cpu", "torch": "2"},
        "config": {"run": {"device": "cpu"}, "data": {"path": "/images"}},
    }  # fmt: skip
    (run / "results.json").write_text(json.dumps(results))
    (run / "status.json").write_text(json.dumps({"state": "finished"}))
    events = [
        {"event": "run_start", "device": "cuda", "precision": "bfloat16"}, {"event": "epoch"},
        {"event": "resume", "device": "cpu", "precision": "bfloat16", "phase": 5, "epoch": 115},
    ]  # fmt: skip
    (run / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    monkeypatch.setattr(record.tables, "phase_table", lambda results: "")
    path = tmp_path / "record.json"
    seen = []
    monkeypatch.setattr(record.recorded, "refresh", lambda: seen.append(path.exists()))
    if among_the_results:
        monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["record", str(run), "name", "--commit", "abc", "--json", str(path)])
    assert record.main() == 0
    assert seen == [True] * among_the_results
    conditions = json.loads(path.read_text())["conditions"]
    assert conditions["sittings"] == [
        {"device": "cuda", "precision": "bfloat16", "phase": 0, "epoch": 0},
        {"device": "cpu", "precision": "bfloat16", "phase": 5, "epoch": 115},
    ]
    assert conditions["device"] == "cuda, then cpu" and conditions["torch"] == "2" and "precision" not in conditions


def test_a_record_has_no_folders_of_this_machine():
    own, inside = "/home/me/own.py:make", f"{record.RESULTS.parents[1]}/tests/own/adjusted_replay.py:make"
    data = {"name": own, "path": "/images", "packed": "/fast", "subset": "/home/me/half.txt", "mean": [0.5]}
    made = record.portable({
        "run": {"extends": "runs/animals", "seed": 0}, "data": data, "model": {"backbone": own, "weights": "~/a.pt"},
        "method": {"name": inside, "options": {"files": ["/home/me/x"]}}, "optim": {"bias": {"name": own}},
    })  # fmt: skip
    assert made == {
        "run": {"extends": "animals", "seed": 0}, "model": {"backbone": "own.py:make", "weights": "a.pt"},
        "data": {"name": "own.py:make", "path": "", "packed": "", "subset": "half.txt", "mean": [0.5]},
        "method": {"name": "tests/own/adjusted_replay.py:make", "options": {"files": ["x"]}},
        "optim": {"bias": {"name": "own.py:make"}},
    }  # fmt: skip


@pytest.mark.parametrize("content", [None, "broken\n{}\n"])
def test_a_run_without_its_log_is_one_line(tmp_path, monkeypatch, capsys, content):
    (tmp_path / "status.json").write_text(json.dumps({"state": "finished"}))
    (tmp_path / "results.json").write_text('{"phases": []}')
    if content:
        (tmp_path / "metrics.jsonl").write_text(content)
    monkeypatch.setattr(sys, "argv", ["record", str(tmp_path), "name", "--json", str(tmp_path / "x.json")])
    assert record.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds no metrics.jsonl that can be read (" in line and not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    ("state", "results", "says"),
    [("running", '{"phases": []}', "is not finished (its state: running)"),
     (None, '{"phases": []}', "is not finished (its state: unknown)"),
     ("finished", '{"phases"', "holds no results.json that can be read"),
     ("finished", None, "holds no results.json that can be read")],
)  # fmt: skip
def test_only_a_finished_run_is_recorded(tmp_path, monkeypatch, capsys, state, results, says):
    """results.json is there after each phase, and six phases look like a protocol of six."""
    if state:
        (tmp_path / "status.json").write_text(json.dumps({"state": state}))
    if results:
        (tmp_path / "results.json").write_text(results)
    monkeypatch.setattr(record.recorded, "refresh", lambda: pytest.fail("tables were written"))
    monkeypatch.setattr(sys, "argv", ["record", str(tmp_path), "name", "--json", str(tmp_path / "x.json")])
    assert record.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("record: ") and says in line and not (tmp_path / "x.json").exists()
