"""A process that lives and never comes to a collective, in which another one waits for ever, as NCCL does."""

import json
import threading

import launching
import pytest
import torch
import torch.distributed as dist

from cil_func.parallel import failure_watch
from cil_func.parallel.failure_watch import FailureWatch
from cil_func.parallel.launch import Launch
from cil_func.parallel.processes import Processes
from cil_func.runs.status_reporter import StatusReporter


@pytest.fixture
def store(monkeypatch):
    """The launcher's, and watches that beat a hundred times a second."""
    port = launching.free_port()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.setattr(failure_watch, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr(failure_watch, "_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(failure_watch, "_PATIENCE_SECONDS", 0.1)
    return dist.TCPStore("127.0.0.1", port, is_master=True)


@pytest.mark.parametrize("hangs", [0, 1])
def test_all_processes_end_and_the_status_names_the_one_that_hangs(hangs, store, tmp_path, monkeypatch, capsys):
    """Two processes as threads: one trains and waits in its collective, of the other one only the watch's thread runs.

    A process ends here by ending the thread of its watch.
    """
    never, ended = threading.Event(), [threading.Event(), threading.Event()]
    monkeypatch.setattr(dist, "all_reduce", lambda vector: never.wait(60))
    watches, mine = [], threading.local()

    def exits(status):
        mine.watch._leaving.set()
        ended[mine.watch.rank].set()

    monkeypatch.setattr(failure_watch.os, "_exit", exits)
    for rank in range(2):
        reporter = StatusReporter(tmp_path / str(rank))
        reporter.directory.mkdir()
        reporter.take_directory()

        def lost(failure, rank=rank, reporter=reporter):
            mine.watch = watches[rank]
            reporter.lost(failure)

        watches.append(FailureWatch(rank, 2, prefix="a", timeout=0.3, on_loss=lost))
        reporter.processes = Processes(Launch(rank, 2, rank, 2), watch=watches[rank])
    with watches[0], watches[1]:
        waiting = Processes(Launch(1 - hangs, 2, 1 - hangs, 2), watch=watches[1 - hangs])
        trains = threading.Thread(target=lambda: waiting.reduce(torch.zeros(3)), daemon=True)
        trains.start()
        assert [event.wait(20) for event in ended] == [True, True]
        never.set()
        trains.join()
    for rank in range(2):
        status = json.loads((tmp_path / str(rank) / "status.json").read_text())
        assert (status["state"], status["exit_code"]) == ("failed", 1)
        assert status["message"].startswith(f"rank {hangs} (") and "hangs" in status["message"]
    assert capsys.readouterr().err == f"train.py: {status['message']}\n"  # by one of them
