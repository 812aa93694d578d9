"""The end of a run: its results, its model, and last the report."""

import pytest

from cil_func.errors import DiskError, StoppedError
from cil_func.runs import finishing


@pytest.mark.parametrize("error", [RuntimeError("two\nlines"), StoppedError(143, "stopped"), DiskError("full")])
def test_whatever_ends_the_report_is_a_warning(tmp_path, monkeypatch, error):
    def fail(directory, warn):
        raise error

    monkeypatch.setattr(finishing.report_files, "write_report", fail)
    told = []
    finishing.draw_report(tmp_path, told.append)
    [event] = told
    assert event["event"] == "warning" and "\n" not in event["message"]
    assert type(error).__name__ in event["message"] and f"python -m cil_func report {tmp_path}" in event["message"]

    def full(event):
        raise DiskError("full")

    finishing.draw_report(tmp_path, full)  # the disk may be why, and the log is on it too
