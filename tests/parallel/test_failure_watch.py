"""Which of several processes failed: several watches in this process, in one store."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

import launching
import pytest
import torch.distributed as dist

from cil_func.errors import PeerError
from cil_func.parallel import failure_watch, launch
from cil_func.parallel.failure_watch import FailureWatch
from cil_func.parallel.launch import Launch
from cil_func.parallel.processes import Processes
from cil_func.parallel.shared_store import StoreError
from cil_func.runs.status_reporter import StatusReporter


@pytest.fixture
def make(monkeypatch):
    """make(rank, timeout=...) returns a watch whose thread never wakes. The test calls its `_look`."""
    port = launching.free_port()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.setattr(failure_watch, "BEAT_SECONDS", 3600.0)
    store = dist.TCPStore("127.0.0.1", port, is_master=True)
    made = []

    def enter(rank: int, *, size: int = 3, timeout: float = 60.0, prefix: str = "a"):
        made.append(FailureWatch(rank, size, prefix=prefix, timeout=timeout, on_loss=lambda failure: None).__enter__())
        return made[-1]

    yield enter
    for watch in made:
        watch.__exit__()
    del store


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(failure_watch.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(failure_watch.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + 1.0))
    return now


def test_the_first_failure_is_the_runs(make):
    first, second, third = (make(rank) for rank in range(3))
    said = second.report_failure(3, "rank 1: no images")
    assert said == {"rank": 1, "exit_code": 3, "message": "rank 1: no images", "lost": False}
    assert first.report_failure(1, "rank 0: lost the others") == said  # a consequence
    third._look()
    assert third.failure == said and third.find_cause("?") == said


def test_a_silent_process_is_named_after_the_timeout_and_one_that_left_is_not(make, clock):
    first, second, third = (make(rank, timeout=10) for rank in range(3))
    for now in range(0, 9, 2):
        clock[0] = float(now)
        for watch in (first, second, third):
            watch._look()
    second.__exit__()
    for now in range(10, 23, 2):  # at 10 it hears the last beat, of 8
        clock[0] = float(now)
        first._look()
        assert (first.failure is None) == (now - 10 <= 10)
    message = first.failure["message"]
    assert message.startswith("rank 2 (") and f"process {os.getpid()}) was lost: silent for 12 s" in message
    assert first.failure["lost"]


def test_after_a_broken_collective_the_silent_one_is_found_in_seconds(make, clock):
    first, second, _ = (make(rank) for rank in range(3))
    for watch in (first, second):
        watch._look()
    second_looks = first.store.has

    def has(name):  # rank 1 lives while rank 0 looks around
        second.store.add("beat/1", 1)
        return second_looks(name)

    first.store.has = has
    failure = first.find_cause("?")
    assert failure["rank"] == 2 and clock[0] < failure_watch._PATIENCE_SECONDS


def test_without_a_silent_process_the_own_message_is_the_cause(make, clock):
    first, second = make(0, size=2), make(1, size=2)
    look = first.store.has

    def has(name):
        second.store.add("beat/1", 1)
        return look(name)

    first.store.has = has
    failure = first.find_cause("rank 0 lost the others")
    assert failure == {"rank": 0, "exit_code": 1, "message": "rank 0 lost the others", "lost": True}


def come_to_a_collective(watch):
    """Lets the main thread of that process enter a collective and stay there."""
    watch.activity.collective().__enter__()


def look_until(clock, end, *watches):
    """Calls `_look` of each watch every two seconds until `end`."""
    while clock[0] < end:
        clock[0] += 2.0
        for watch in watches:
            watch._look()


def test_a_live_process_that_stays_behind_is_reported_within_the_timeout(make, clock):
    """The thread of the process beats, its main thread hangs, and no collective of the others raises."""
    watches = [make(rank, timeout=10) for rank in range(3)]
    look_until(clock, 30, *watches)
    assert not any(watch.failure for watch in watches)  # nobody waits
    come_to_a_collective(watches[0])
    come_to_a_collective(watches[2])
    look_until(clock, 40, *watches)
    assert not any(watch.failure for watch in watches)
    look_until(clock, 44, *watches)
    message = watches[0].failure["message"]
    assert message.startswith("rank 1 (") and "hangs" in message and "has not moved for" in message
    assert all(watch.failure == watches[0].failure for watch in watches)


@pytest.mark.parametrize("announced", [True, False])
def test_announced_work_may_take_longer_than_the_timeout(announced, make, clock):
    first, second = (make(rank, size=2, timeout=120) for rank in range(2))
    if announced:
        second.activity.begin_work("compiling")
    come_to_a_collective(first)
    look_until(clock, 300, first, second)
    assert (first.failure is None) is announced


def test_a_process_that_makes_progress_is_waited_for(make, clock):
    first, second = (make(rank, size=2, timeout=10) for rank in range(2))
    come_to_a_collective(first)
    for end in range(8, 80, 8):
        look_until(clock, end, first, second)
        second.activity.count_progress()  # a batch of its evaluation
    assert first.failure is None


def test_a_process_that_left_is_not_the_cause_and_if_all_wait_the_connection_is(make, clock):
    watches = [make(rank, timeout=10) for rank in range(3)]
    watches[1].__exit__()
    for watch in (watches[0], watches[2]):
        come_to_a_collective(watch)
    look_until(clock, 20, watches[0], watches[2])
    assert (watches[0].failure["rank"], watches[0].failure["lost"]) == (-1, True)
    assert "connection" in watches[0].failure["message"]


def test_after_a_failed_collective_the_process_that_is_behind_is_the_cause(make, clock):
    first, second = make(0, size=2), make(1, size=2)
    come_to_a_collective(first)
    for watch in (first, second, first):
        watch._look()
    look = first.store.has

    def has(name):
        second.store.add("beat/1", 1)
        return look(name)

    first.store.has = has
    assert "rank 1 (" in first.find_cause("?")["message"] and "hangs" in first.failure["message"]


def test_exchange_returns_the_values_of_all_processes(make):
    first, second = make(0, size=2), make(1, size=2)
    second.store.set("gpu/1", "b")
    second.store.add("wait_for_all/gpu", 1)
    assert first.exchange("gpu", "a") == ["a", "b"]


def test_a_dead_process_of_this_machine_is_not_waited_for(make, clock):
    first = make(0, size=2, timeout=1000)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    first.store.set("who/1", json.dumps([socket.gethostname(), gone.pid, launch.here()]))
    first.store.add("beat/1", 1)
    for now in (0.0, 1.0, 2.0, 3.0, 4.0):
        clock[0] = now
        first._look()
        assert (first.failure is None) == (now <= failure_watch._SUSPECT_SECONDS)
    assert f"process {gone.pid}) was lost" in first.failure["message"]


@pytest.mark.parametrize(("exit_code", "left", "names"), [(143, False, 1), (143, True, 0), (3, False, 0)])
def test_the_stop_that_a_launcher_sends_when_a_process_was_killed_is_not_the_runs_end(exit_code, left, names, make):
    """The signal comes within a tenth of a second, before the watch has missed a beat."""
    first = make(0, size=2)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    first.store.set("who/1", json.dumps([socket.gethostname(), gone.pid, launch.here()]))
    if left:
        first.store.set("left/1", "")
    failure = first.report_failure(exit_code, "its own words")
    assert (failure["rank"], failure["lost"]) == (names, bool(names))
    lost = f"rank 1 ({socket.gethostname()}, process {gone.pid}) was lost: it is not there any more"
    assert failure["message"] == (lost if names else "its own words")
    assert failure["exit_code"] == (1 if names else exit_code)


def test_a_process_that_was_suspended_itself_reports_no_other(make, clock, monkeypatch):
    monkeypatch.setattr(failure_watch, "BEAT_SECONDS", 0.5)
    first = make(0, size=2, timeout=10)
    first.store.add("beat/1", 1)
    for now in (0.0, 0.5, 60.0, 60.5, 61.0):
        clock[0] = now
        first._look()
    assert first.failure is None


def test_without_the_store_a_process_reports_its_own_failure(make):
    first = make(0, size=2)

    class Gone:
        def __getattr__(self, name):
            def raises(*arguments):
                raise StoreError("connection closed")

            return raises

    first.store = Gone()
    assert first.report_failure(3, "rank 0: no images")["message"] == "rank 0: no images"
    first.failure = None
    found = first.find_cause("rank 0 lost the others")
    assert (found["rank"], found["message"], found["lost"]) == (0, "connection closed", True)


def test_waiting_ends_when_a_process_fails(make, clock):
    first, second = make(0, size=2), make(1, size=2)
    second.announce("data/0")
    first.wait_for_announcement("data/0")
    second.store.add("wait_for_all/data", 1)
    first.wait_for_all("data")
    first.failure = {"rank": 1, "exit_code": 3, "message": "no images"}
    for wait in (lambda: first.wait_for_announcement("never"), lambda: first.wait_for_all("never")):
        with pytest.raises(PeerError, match="rank 1, which failed"):
            wait()


def test_the_thread_has_ended_after_the_block(make):
    """A thread that is inside torch when Python ends would abort the process."""
    watch = make(0)

    def busy():  # in a call that takes a moment when the process wants to leave
        watch._leaving.wait()
        time.sleep(0.3)

    watch._thread = threading.Thread(target=busy)
    watch._thread.start()
    watch.__exit__()
    assert not watch._thread.is_alive()


def test_a_restart_sees_nothing_of_the_attempt_before(make):
    make(1).report_failure(1, "rank 1: killed")
    again = make(0, prefix="b")
    again._look()
    assert again.failure is None


def test_a_process_whose_main_thread_hangs_is_ended(make, monkeypatch):
    """Its main thread waits in a collective for a lost process. The thread reports that and ends it, after a save."""
    ended, told, now = [], [], [0.0]
    monkeypatch.setattr(failure_watch.time, "monotonic", lambda: now[0])
    watch = make(0, size=2)
    watch._on_loss = lambda failure: told.append((failure["message"], now[0]))
    make(1, size=2).report_failure(143, "stopped by SIGTERM")

    class Saving:
        """A lock that is released after three seconds."""

        def acquire(self, timeout):
            now[0] += 3.0

    watch.exit_lock = Saving()
    monkeypatch.setattr(failure_watch.os, "_exit", lambda status: (ended.append(status), watch._leaving.set()))

    class Turns:
        """Each wait of the thread takes a second."""

        def wait(self, seconds):
            now[0] += 1.0
            return bool(ended)

        def set(self):
            pass

    leaving, watch._leaving = watch._leaving, Turns()
    watch._run()
    watch._leaving = leaving
    # known after a second, over the grace of 2 seconds at 4, and saved at 7
    assert ended == [143] and told == [("stopped by SIGTERM", 7.0)] and failure_watch._GRACE_SECONDS == 2


@pytest.mark.parametrize("other", ["another boot", "another namespace"])
def test_a_process_of_another_machine_of_the_same_name_is_not_looked_for_here(other, make, clock):
    """Its number may be that of no process here, and it lives."""
    first = make(0, size=2, timeout=1000)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    name, boot, namespace = launch.here().split(" ")
    place = {"another boot": f"{name} x {namespace}", "another namespace": f"{name} {boot} x"}[other]
    first.store.set("who/1", json.dumps([socket.gethostname(), gone.pid, place]))
    first.store.add("beat/1", 1)
    for now in (0.0, 2.0, 4.0, 6.0):
        clock[0] = now
        first._look()
        assert first.failure is None
    assert first.report_failure(143, "stopped by SIGTERM")["message"] == "stopped by SIGTERM"


def test_a_store_that_is_gone_while_a_process_waits_is_one_line(monkeypatch, tmp_path, capsys):
    """The first machine's launcher has it, and that machine may be taken away while others wait."""
    port = launching.free_port()
    code = f"from torch.distributed import TCPStore; store = TCPStore('127.0.0.1', {port}, is_master=True)"
    code += "; print(flush=True); import time; time.sleep(60)"
    host = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    host.stdout.readline()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.setattr(failure_watch, "BEAT_SECONDS", 3600.0)
    watch = FailureWatch(1, 2, prefix="a", timeout=5.0, on_loss=lambda failure: None).__enter__()
    try:
        host.kill()
        host.wait()
        for wait in (
            lambda: watch.wait_for_announcement("data"), lambda: watch.wait_for_all("data"),
            lambda: watch.exchange("gpu", "a"), lambda: watch.announce("data"),
        ):  # fmt: skip
            with pytest.raises(PeerError, match=r"^the launcher of rank 0 is gone \(.+\)$"):
                wait()
    finally:
        watch._leaving.set()
    reporter = StatusReporter(tmp_path)
    for place in (Launch(1, 2, 0, 1), Launch(0, 2, 0, 1)):  # alone on its machine, whose launcher shows what it prints
        reporter.processes = Processes(place)
        reporter.lost(watch.find_cause("rank 1 lost the others"))
        assert re.fullmatch(r"train\.py: the launcher of rank 0 is gone \(.+\)\n", capsys.readouterr().err)
