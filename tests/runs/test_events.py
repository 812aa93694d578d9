"""Files that are whole or not there, the event log and the status file."""

import errno
import json
import os
import resource
import stat
import subprocess
import sys

import numpy as np
import pytest

from cil_func.errors import DiskError
from cil_func.runs import events


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
    with pytest.raises(DiskError, match=r"results\.json: No space left on device; free some space") as caught:
        events.write_text(path, "new")
    assert caught.value.exit_status == 74 and "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "Read-only file system; mount it"),
        (errno.EACCES, "Permission denied; ask"),
        (errno.EIO, "look at the disk"),
    ],
)
def test_what_a_disk_refuses_is_told_with_what_to_do(code, says):
    with pytest.raises(DiskError, match=says), events.disk_errors("a/b"):
        raise OSError(code, os.strerror(code))
    with pytest.raises(KeyError), events.disk_errors("a/b"):
        raise KeyError  # nothing else is touched


def test_a_file_in_no_folder_is_told(tmp_path):
    with pytest.raises(DiskError, match=r"no/x: No such file or directory; make its folder"):
        events.write_text(tmp_path / "no" / "x", "new")


def test_the_new_file_appears_only_by_a_rename_after_its_bytes_are_on_disk(tmp_path, monkeypatch):
    path, calls = tmp_path / "a.txt", []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append(f"replace {path.exists()}"), replace(a, b)))
    events.write_text(path, "x")
    assert calls[:2] == ["fsync", "replace False"]


def opened_and_synced(monkeypatch) -> list[str]:
    """The folders that are opened to be synced from here on, and "fsync" for each sync."""
    calls, real_open, real_fsync = [], os.open, os.fsync
    monkeypatch.setattr(os, "open", lambda path, *rest: (calls.append(os.fspath(path)), real_open(path, *rest))[1])
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), real_fsync(descriptor)))
    return calls


def test_the_folder_is_synced_after_the_rename(tmp_path, monkeypatch):
    calls = opened_and_synced(monkeypatch)
    events.write_text(tmp_path / "a.txt", "x")
    assert calls == ["fsync", str(tmp_path), "fsync"]


def test_a_new_folder_is_synced_into_the_one_above_it_once(tmp_path, monkeypatch):
    calls = opened_and_synced(monkeypatch)
    events.make_directory(tmp_path / "checkpoints")
    assert calls == [str(tmp_path), "fsync"] and (tmp_path / "checkpoints").is_dir()
    events.make_directory(tmp_path / "checkpoints")
    assert len(calls) == 2
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"file: File exists"):
        events.make_directory(tmp_path / "file")


@pytest.mark.parametrize(("code", "fails"), [(errno.EINVAL, False), (errno.EACCES, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_synced_is_a_failure_where_the_disk_is_the_cause(tmp_path, monkeypatch, code, fails):
    def refuse(path, *rest):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    if fails:
        with pytest.raises(DiskError):
            events.write_text(tmp_path / "a.txt", "x")
    else:
        events.write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").read_text() == "x"


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


def test_a_log_on_a_full_disk_says_so(tmp_path):
    """By the system's limit of the size of a file; what was written before stays."""
    path = tmp_path / "metrics.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = events.Log(path)
    log({"event": "first"})
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, hard))
    try:
        with pytest.raises(DiskError, match=r"metrics\.jsonl: File too large"):
            log({"event": "second"})
        log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [event["event"] for event in events.read(path)] == ["first"] and path.read_text().endswith("}\n")
    with pytest.raises(DiskError, match=r"no/metrics\.jsonl: No such"):
        events.Log(tmp_path / "no" / "metrics.jsonl")


def test_a_log_that_is_deleted_while_it_is_written_is_written_again_whole(tmp_path):
    path, told = tmp_path / "metrics.jsonl", []
    with events.Log(path, tell=told.append) as log:
        log({"event": "a"})
        for _ in range(2):
            path.unlink()
            log({"event": "b"})
            log({"event": "c"})
        path.unlink()
        assert log.size() == path.stat().st_size
    assert [event["event"] for event in events.read(path)] == ["a", *["warning", "b", "c"] * 2, "warning"]
    assert [event["message"] for event in told] == [
        "metrics.jsonl was deleted while the run went on; it is written again"
    ] * 3


def test_a_log_that_is_replaced_or_cut_is_appended_to(tmp_path):
    path, told = tmp_path / "metrics.jsonl", []
    with events.Log(path, tell=told.append) as log:
        log({"event": "a"})
        (tmp_path / "other").write_text('{"event": "x"}\n{"event": "half of a li')
        os.replace(tmp_path / "other", path)
        log({"event": "b"})
        assert [event["event"] for event in events.read(path)] == ["x", "warning", "b"]
        assert log.size() == path.stat().st_size
        os.truncate(path, 20)  # within the second line
        log({"event": "c"})
    assert [event["event"] for event in events.read(path)] == ["x", "warning", "c"]
    assert ["replaced" in event["message"] for event in told] == [True, False]
    assert ["cut short" in event["message"] for event in told] == [False, True]


def test_a_log_whose_folder_is_gone_says_so_on_one_line(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with events.Log(folder / "metrics.jsonl") as log:
        log({"event": "a"})
        folder.rename(tmp_path / "elsewhere")
        for call in (log.size, lambda: log({"event": "b"})):
            with pytest.raises(DiskError, match=r"run: the run directory was deleted or moved .* put it back"):
                call()


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


def test_cleaning_removes_only_what_a_killed_process_left_of_a_write(tmp_path, monkeypatch):
    """The name that a killed process leaves is asked of `write_bytes` itself."""
    seen = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (seen.append(source), replace(source, target)))
    events.write_text(tmp_path / "results.json", "x")
    left = seen[0]
    left.write_text("half")
    others = [".lock", ".x.tmp", "x.1.tmp", ".results.json.swp"]
    for name in others:
        (tmp_path / name).touch()
    events.clean(tmp_path, tmp_path / "nowhere")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "results.json"])


def test_importing_events_and_the_report_brings_in_neither_torch_nor_matplotlib():
    code = (
        "import sys; import cil_func.runs.events, cil_func.report.console, cil_func.report.figures; "
        "print(sorted({'torch', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
