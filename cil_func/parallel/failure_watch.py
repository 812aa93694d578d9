"""Finds out which of several processes failed, is lost or hangs.

A collective that waits for a dead or stopped process reports "connection closed" or nothing at all, but never which
process is the cause; NCCL doesn't even raise if another process hangs. So a thread in each process publishes in the
launcher's store that it is alive (a counter, the beat) and how far its main thread and GPU have come (`activity`), and
reads what the others have published.
"""

import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypedDict

from cil_func.errors import PeerError
from cil_func.parallel import activity
from cil_func.parallel.activity import Activity, ActivityRecord
from cil_func.parallel.launch import here
from cil_func.parallel.shared_store import SharedStore, StoreError

BEAT_SECONDS = 0.5  # between two beats
_GRACE_SECONDS = 2.0  # from a known failure to the end of a process whose main thread is still in a collective
_SUSPECT_SECONDS = 3.0  # of silence after which a process counts as lost, once something is known to be wrong
_PATIENCE_SECONDS = 8.0  # for which the cause of a failed collective is looked for


class Failure(TypedDict):
    """Why a run ends; all processes get the same one."""

    rank: int  # of the process that failed; -1 if no single process is the cause
    exit_code: int  # its exit status
    message: str  # one line
    lost: bool  # whether that process is gone or hangs, so that it can't report the failure itself


class FailureWatch:
    """Watches the processes of a run from one of them. A context manager: its thread runs inside the block.

    rank: of this process. size: the number of processes. prefix: of the keys in the store; another one after each
    restart. timeout: seconds after which a process counts as lost if it is silent, or as hanging if it doesn't move
    while others wait for it.
    on_loss: called as on_loss(failure) just before the thread ends this process. The thread does that after a failure
    if the main thread doesn't end, since it may wait in a collective for ever.

    failure: the run's failure, None as long as there is none. activity: counts what this process passes.
    exit_lock: take it around work that the end of the process must not interrupt.
    """

    def __init__(self, rank: int, size: int, *, prefix: str, timeout: float, on_loss: Callable[[Failure], None]):
        self.rank, self.size, self.activity = rank, size, Activity()
        self.failure: Failure | None = None
        self._prefix, self._timeout, self._on_loss = prefix, timeout, on_loss
        self._beats: dict[int, tuple[int, float]] = {}  # rank -> (its last beat, when that was new)
        self._still: dict[int, tuple[ActivityRecord, float]] = {}  # rank -> (its last record, when that was new)
        self._looked, self._leaving = time.monotonic(), threading.Event()
        self.exit_lock = threading.Lock()

    def __enter__(self) -> "FailureWatch":
        self.store = SharedStore(self._prefix, self._timeout)
        self.store.set(f"who/{self.rank}", json.dumps([socket.gethostname(), os.getpid(), here()]))
        self.store.set(f"place/{self.rank}", activity.to_text(self.activity.record()))
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        # Python ends a thread that is inside torch by aborting the process, so the thread has to end before.
        self._thread.join(_GRACE_SECONDS)
        with suppress(StoreError):
            self.store.set(f"left/{self.rank}", "")

    def report_failure(self, exit_code: int, message: str) -> Failure:
        """Reports that this process fails. Returns the run's failure, which is another one if that was reported before.

        exit_code: of this process; above 128 it ends by a signal. If a process was killed, a launcher sends such a
        signal to all others: then the failure is that the killed process was lost. message: what went wrong, one line.
        """
        failure: Failure = {"rank": self.rank, "exit_code": exit_code, "message": message, "lost": False}
        if exit_code > 128:
            with suppress(StoreError):
                others = (rank for rank in range(self.size) if rank != self.rank and not self.store.has(f"left/{rank}"))
                dead = next(filter(self._is_dead, others), None)
                failure = failure if dead is None else self._lost(dead, "was lost: it is not there any more")
        return self._claim(failure)

    def find_cause(self, fallback: str) -> Failure:
        """Returns the failure behind a collective that failed in this process. Takes up to 8 seconds.

        fallback: the message if no other process is found to be the cause.
        """
        end = time.monotonic() + _PATIENCE_SECONDS
        own: Failure = {"rank": self.rank, "exit_code": 1, "message": fallback, "lost": True}
        try:
            while time.monotonic() < end:
                if self.failure:
                    return self.failure
                silent = self._silent(_SUSPECT_SECONDS)
                if silent:
                    return self._claim(self._loss(silent[0]))
                time.sleep(BEAT_SECONDS / 5)
            return self._claim(self._hanging(0.0) or own)
        except StoreError as error:
            return {"rank": 0, "exit_code": 1, "message": str(error), "lost": True}

    def announce(self, key: str, value: str = "") -> None:
        """Publishes a value under a key and so ends `wait_for_announcement(key)` in all processes."""
        self.store.set(key, value)

    def wait_for_announcement(self, key: str) -> str:
        """Waits, without a limit, until some process announces the key. Returns its value.

        Raises PeerError if a process fails.
        """
        # Not `waiting_for_all`: only some processes pass this place.
        with self.activity.long_work("waiting", at_most_seconds=math.inf):
            self._poll(lambda: self.store.has(key))
        return self.store.get(key)

    def wait_for_all(self, place: str) -> None:
        """Waits until all processes have called this with the same name, used once. Raises PeerError if one fails."""
        with self.activity.waiting_for_all():
            self.store.add(f"wait_for_all/{place}", 1)
            self._poll(lambda: self.store.add(f"wait_for_all/{place}", 0) >= self.size)

    def exchange(self, name: str, value: str) -> list[str]:
        """Gives `value` to all processes. Returns the values that all processes gave, by rank.

        name: the same in all processes, and used once. Raises PeerError if a process fails.
        """
        self.store.set(f"{name}/{self.rank}", value)
        self.wait_for_all(name)
        return [self.store.get(f"{name}/{rank}") for rank in range(self.size)]

    def _poll(self, there: Callable[[], bool]) -> None:
        while not there():
            if self.failure:
                raise PeerError(f"rank {self.rank} waited for rank {self.failure['rank']}, which failed")
            time.sleep(BEAT_SECONDS / 10)

    def _run(self) -> None:
        """Runs in the thread: beats, looks at the others, and ends the process if its main thread doesn't end."""
        known = None
        while not self._leaving.wait(BEAT_SECONDS):
            try:
                self._look()
            except StoreError as error:
                self.failure = self.failure or {"rank": 0, "exit_code": 1, "message": str(error), "lost": True}
            failure = self.failure
            if not failure:
                continue
            known = known or time.monotonic()
            # A process that has reported its own failure gets the time to end by itself.
            if time.monotonic() - known > _GRACE_SECONDS + _PATIENCE_SECONDS * (failure["rank"] == self.rank):
                self.exit_lock.acquire(timeout=self._timeout)
                try:
                    self._on_loss(failure)
                finally:
                    os._exit(failure["exit_code"] or 1)

    def _look(self) -> None:
        """Publishes a beat and the activity of this process, then looks for a failure of the others."""
        now, looked = time.monotonic(), self._looked
        self._looked = now
        if now - looked > 4 * BEAT_SECONDS + 1.0:  # this process was stopped itself, so its times are too old
            self._beats.clear()
            self._still.clear()
        self.store.add(f"beat/{self.rank}", 1)
        self.store.set(f"place/{self.rank}", activity.to_text(self.activity.record()))
        if self.store.has("failure"):
            self.failure = json.loads(self.store.get("failure"))
            return
        silent = self._silent(self._timeout)
        failure = self._loss(silent[0]) if silent else self._hanging(self._timeout)
        if failure:
            self._claim(failure)

    def _silent(self, seconds: float) -> list[int]:
        """Returns the ranks that have not left and whose last beat is `seconds` old, or 3 seconds if one `_is_dead`."""
        now, silent = time.monotonic(), []
        for rank in range(self.size):
            if rank == self.rank or self.store.has(f"left/{rank}"):
                continue
            beat = self.store.add(f"beat/{rank}", 0)
            if self._beats.get(rank, (None, now))[0] != beat:
                self._beats[rank] = (beat, now)
            elif now - self._beats[rank][1] > (_SUSPECT_SECONDS if self._is_dead(rank) else seconds):
                silent.append(rank)
        return silent

    def _is_dead(self, rank: int) -> bool:
        """Returns whether the process `rank` was on this machine, in this container, and doesn't exist any more."""
        _, pid, place = self._who(rank)
        if place != here():
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def _hanging(self, timeout: float) -> Failure | None:
        """Returns the failure of a process that hangs, see `activity.find_hanging`; None if there is none."""
        now, published = time.monotonic(), self.store.get_all([f"place/{rank}" for rank in range(self.size)])
        if published is None:  # a process has not begun yet
            return None
        for rank, record in enumerate(map(activity.from_text, published)):
            if self._still.get(rank, (None,))[0] != record:
                self._still[rank] = record, now
        still = {rank: (record, now - when) for rank, (record, when) in self._still.items()}
        if not activity.find_hanging(still, timeout):  # saves the questions to the store below
            return None
        still = {rank: value for rank, value in still.items() if not self.store.has(f"left/{rank}")}
        found = activity.find_hanging(still, timeout)
        if not found:
            return None
        hanging, what = found
        if hanging is None:
            return {"rank": -1, "lost": True, "exit_code": 1, "message": what}
        return self._lost(hanging, what)

    def _loss(self, rank: int) -> Failure:
        return self._lost(rank, f"was lost: silent for {time.monotonic() - self._beats[rank][1]:.0f} s")

    def _lost(self, rank: int, how: str) -> Failure:
        host, pid, _ = self._who(rank)
        return {"rank": rank, "lost": True, "exit_code": 1, "message": f"rank {rank} ({host}, process {pid}) {how}"}

    def _who(self, rank: int) -> tuple[str, int, str]:
        """Returns (host, pid, what `here` says) of a process, ("nowhere", 0, "") if it has never started."""
        if not self.store.has(f"who/{rank}"):
            return "nowhere", 0, ""
        host, pid, place = json.loads(self.store.get(f"who/{rank}"))
        return host, pid, place

    def _claim(self, failure: Failure) -> Failure:
        """Publishes a failure unless there is one already. Returns the run's failure."""
        try:
            published = self.store.set_once("failure", json.dumps(failure))
        except StoreError:
            published = json.dumps(self.failure or failure)
        self.failure = agreed = json.loads(published)
        return agreed
