"""What a command finds in a run directory."""

import os
import socket

import pytest
import torch

from cil_func import config
from cil_func.errors import InUseError
from cil_func.parallel.processes import Processes
from cil_func.runs import checkpoints, directory, files, lock, status


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


def test_a_run_goes_on_with_the_threads_that_the_command_names(tmp_path):
    """0, which is no number of threads, leaves those of the run."""

    def found(threads: int) -> int:
        wanted = config.load("digits", ["run.device=cpu", f"run.threads={threads}"])
        return directory.read_directory(wanted, tmp_path, Processes(), on_owned=lambda: None).config.run.threads

    (tmp_path / "config.toml").write_text(config.to_toml(config.load("digits", ["run.device=cpu", "run.threads=3"])))
    checkpoints.save(tmp_path / "checkpoints", {"a": torch.zeros(1)}, {}, number=0)
    assert [found(threads) for threads in (0, 2, 3)] == [3, 2, 3]


def test_without_a_checkpoint_increments_are_those_of_the_classes_that_are_there_now(tmp_path):
    """A run that begins anew is that of a new directory: what "auto" meant before is forgotten."""
    wanted = config.load("digits", ["run.device=cpu", "data.increment=auto"])
    data = wanted.data.model_copy(update={"initial_increment": 2, "increment": 1})
    (tmp_path / "config.toml").write_text(config.to_toml(wanted.model_copy(update={"data": data})))

    def found():
        return directory.read_directory(wanted, tmp_path, Processes(), on_owned=lambda: None).config.data

    assert (found().increment, found().initial_increment) == ("auto", wanted.data.initial_increment)
    checkpoints.save(tmp_path / "checkpoints", {"a": torch.zeros(1)}, {}, number=0)
    assert (found().increment, found().initial_increment) == (1, 2)
