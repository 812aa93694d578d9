"""What a command finds in a run directory."""

import os
import socket

import pytest

from cil_func.errors import InUseError
from cil_func.parallel.processes import Processes
from cil_func.runs import directory, files, lock, status


def write(folder, state: str, *, pid: int, ticks: int) -> None:
    record = {"state": state, "pid": pid, "host": socket.gethostname(), "process_started": ticks, "updated": 0.0}
    files.write_json(folder / "status.json", record)


def test_a_live_process_is_found_though_its_lock_was_deleted(tmp_path):
    """A process that is gone doesn't count, even if another process has its number now."""
    other, ticks = os.getppid(), status._started(os.getppid())
    for state, known in (("running", ticks - 1), ("finished", ticks), ("failed", ticks)):
        write(tmp_path, state, pid=other, ticks=known)
        with directory.claim_directory(tmp_path, Processes()):
            pass
    write(tmp_path, "running", pid=other, ticks=ticks)
    message = f"in use: .*process {other} on .* days ago, and that process is alive; wait"
    with pytest.raises(InUseError, match=message), directory.claim_directory(tmp_path, Processes()):
        raise AssertionError("two at once")
    with lock.lock_directory(tmp_path):  # and the lock was given back
        pass


def test_a_directory_in_use_is_refused_with_the_age_of_its_status(tmp_path):
    write(tmp_path, "running", pid=12, ticks=3)
    message = r"in use by process .*\(status.json says .* days ago\)"
    with (
        lock.lock_directory(tmp_path),
        pytest.raises(InUseError, match=message),
        directory.claim_directory(tmp_path, Processes()),
    ):
        raise AssertionError("two at once")
