"""Files that are whole or not there, the event log and the status file."""

import json
import os
import stat
import subprocess
import sys

import numpy as np
import pytest

from cil_func import events


def test_json_is_strict_readable_and_ends_with_a_newline(tmp_path):
    path = tmp_path / "results.json"
    value = {"top1": np.float32(0.5), "matrix": np.ones((1, 2)), "name": "Größe", "gamma": None}
    events.write_json(path, value)
    text = path.read_text(encoding="utf-8")
    assert text.endswith("}\n") and "Größe" in text
    assert json.loads(text) == {"top1": 0.5, "matrix": [[1.0, 1.0]], "name": "Größe", "gamma": None}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float64("nan")])
def test_json_refuses_a_number_that_is_not_finite_and_names_it(tmp_path, bad):
    path = tmp_path / "results.json"
    events.write_json(path, {"old": 1})
    with pytest.raises(ValueError, match=r"phases\[1\]: top1.*not finite"):
        events.write_json(path, {"phases": [{"top1": 1.0}, {"top1": bad}]})
    assert json.loads(path.read_text()) == {"old": 1}


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_write_that_fails_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch, broken):
    path = tmp_path / "results.json"
    events.write_text(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="No space"):
        events.write_text(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_the_new_file_appears_only_by_a_rename_after_its_bytes_are_on_disk(tmp_path, monkeypatch):
    path, calls = tmp_path / "a.txt", []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append(f"replace {path.exists()}"), replace(a, b)))
    events.write_text(path, "x")
    assert calls[:2] == ["fsync", "replace False"]


def test_a_written_file_has_the_rights_that_the_umask_gives(tmp_path):
    old = os.umask(0o022)
    try:
        events.write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


def test_log_adds_the_time_skips_progress_and_flushes_each_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with events.Log(path, clock=lambda: 12.5) as log:
        event = {"event": "epoch", "phase": 0, "loss": np.float32(0.25)}
        log(event)
        assert path.read_text() == '{"event": "epoch", "phase": 0, "loss": 0.25, "time": 12.5}\n'
        log({"event": "progress", "images": 128})
        log({"event": "run_end"})
    assert "time" not in event
    assert [e["event"] for e in events.read(path)] == ["epoch", "run_end"]


def test_log_writes_null_for_a_loss_that_is_not_finite(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with events.Log(path) as log:
        log({"event": "epoch", "loss": float("nan"), "norms": {"before_align": [1.0, float("inf")]}})
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    [event] = events.read(path)
    assert event["loss"] is None and event["norms"]["before_align"] == [1.0, None]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_torn_last_line_is_left_out_and_the_next_event_is_not_glued_to_it(tmp_path, cut):
    path = tmp_path / "metrics.jsonl"
    whole = b'{"event": "a"}\n'
    torn = '{"e": "ä"}'.encode()[:cut]  # 11 bytes: the last cut leaves the object whole, without a newline
    path.write_bytes(whole + torn)
    kept = [{"event": "a"}] + ([{"e": "ä"}] if cut == 11 else [])
    assert events.read(path) == kept
    with events.Log(path, clock=lambda: 1.0) as log:
        log({"event": "b"})
    assert events.read(path) == [*kept, {"event": "b", "time": 1.0}]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "a"}\n{"event": \n{"event": "b"}\n')
    with pytest.raises(ValueError, match="line 2"):
        events.read(path)


def test_status_keeps_its_start_and_tells_how_the_run_ended(tmp_path):
    times = iter([100.0, 101.0, 102.0, 103.0, 104.0])
    status = events.Status(tmp_path, clock=lambda: next(times))

    def now():
        return json.loads((tmp_path / "status.json").read_text())

    status.running()
    assert now() == {"state": "running", "exit_code": None, "message": "", "started": 100.0, "updated": 101.0,
                     "pid": os.getpid()}  # fmt: skip
    status.failed(3, "no such folder")
    assert (now()["state"], now()["exit_code"], now()["message"]) == ("failed", 3, "no such folder")
    status.stopped(130, "interrupted")
    assert (now()["state"], now()["exit_code"]) == ("stopped", 130)
    status.finished()
    assert (now()["state"], now()["exit_code"]) == ("finished", 0)
    assert (now()["started"], now()["updated"]) == (100.0, 104.0)


def test_importing_events_and_the_report_brings_in_neither_torch_nor_matplotlib():
    code = (
        "import sys; import cil_func.events, cil_func.report.console, cil_func.report.figures; "
        "print(sorted({'torch', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
