"""The event log metrics.jsonl."""

import os
import resource
import subprocess
import sys

import numpy as np
import pytest

from cil_func.errors import DiskError
from cil_func.runs import event_log


def test_log_adds_the_time_skips_progress_and_flushes_each_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with event_log.EventLog(path, clock=lambda: 12.5) as log:
        event = {"event": "epoch", "phase": 0, "loss": np.float32(0.25)}
        log(event)
        assert path.read_text() == '{"event": "epoch", "phase": 0, "loss": 0.25, "time": 12.5}\n'
        log({"event": "progress", "images": 128})
        log({"event": "run_end"})
    assert "time" not in event
    assert [e["event"] for e in event_log.read(path)] == ["epoch", "run_end"]


def test_log_writes_null_for_a_loss_that_is_not_finite(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with event_log.EventLog(path) as log:
        log({"event": "epoch", "loss": float("nan"), "norms": {"before_align": [1.0, float("inf")]}})
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    [event] = event_log.read(path)
    assert event["loss"] is None and event["norms"]["before_align"] == [1.0, None]


def test_a_log_on_a_full_disk_says_so(tmp_path):
    """Simulated by the system's limit of the size of files. What was written before stays."""
    path = tmp_path / "metrics.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = event_log.EventLog(path)
    log({"event": "first"})
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 5, hard))
    try:
        with pytest.raises(DiskError, match=r"metrics\.jsonl: File too large"):
            log({"event": "second"})
        log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [event["event"] for event in event_log.read(path)] == ["first"] and path.read_text().endswith("}\n")
    with pytest.raises(DiskError, match=r"no/metrics\.jsonl: No such"):
        event_log.EventLog(tmp_path / "no" / "metrics.jsonl")


def test_a_log_that_is_deleted_while_it_is_written_is_written_again_whole(tmp_path):
    path, told = tmp_path / "metrics.jsonl", []
    with event_log.EventLog(path, on_warning=told.append) as log:
        log({"event": "a"})
        for _ in range(2):
            path.unlink()
            log({"event": "b"})
            log({"event": "c"})
        path.unlink()
        assert log.size() == path.stat().st_size
    assert [event["event"] for event in event_log.read(path)] == ["a", *["warning", "b", "c"] * 2, "warning"]
    assert [event["message"] for event in told] == [
        "metrics.jsonl was deleted while the run went on; it is written again"
    ] * 3


def test_a_log_that_is_replaced_or_cut_is_appended_to(tmp_path):
    path, told = tmp_path / "metrics.jsonl", []
    with event_log.EventLog(path, on_warning=told.append) as log:
        log({"event": "a"})
        (tmp_path / "other").write_text('{"event": "x"}\n{"event": "half of a li')
        os.replace(tmp_path / "other", path)
        log({"event": "b"})
        assert [event["event"] for event in event_log.read(path)] == ["x", "warning", "b"]
        assert log.size() == path.stat().st_size
        os.truncate(path, 20)  # within the second line
        log({"event": "c"})
    assert [event["event"] for event in event_log.read(path)] == ["x", "warning", "c"]
    assert ["replaced" in event["message"] for event in told] == [True, False]
    assert ["cut short" in event["message"] for event in told] == [False, True]


def test_a_log_whose_folder_is_gone_says_so_on_one_line(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with event_log.EventLog(folder / "metrics.jsonl") as log:
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
    assert event_log.read(path) == kept
    with event_log.EventLog(path, clock=lambda: 1.0) as log:
        log({"event": "b"})
    assert event_log.read(path) == [*kept, {"event": "b", "time": 1.0}]


def test_a_broken_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"event": "a"}\n{"event": \n{"event": "b"}\n')
    with pytest.raises(ValueError, match="line 2"):
        event_log.read(path)


def test_importing_events_and_the_report_brings_in_neither_torch_nor_matplotlib():
    code = (
        "import sys; import cil_func.runs.event_log, cil_func.report.console, cil_func.report.figures; "
        "print(sorted({'torch', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
