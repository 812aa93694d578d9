"""Who of several processes failed: each says that it lives and how far it is, and one that stays behind is named.

A collective that waits for a dead or stopped process says "connection closed" or nothing for ever, and not who is to
blame. NCCL never raises where another process hangs. So a thread in each process counts a beat in the launcher's store,
publishes how far its main thread and its GPU have come (`parallel.activity`), and looks at what the others published.
"""

import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist

from cil_func.errors import PeerError
from cil_func.parallel import activity
from cil_func.parallel.activity import Activity, ActivityRecord

BEAT_SECONDS = 0.5
_GRACE_SECONDS = 2.0  # between knowing of a loss and ending a process whose main thread is still in a collective
_SUSPECT_SECONDS = 3.0  # of silence, once something is known to be wrong
_PATIENCE_SECONDS = 8.0  # how long the one to blame is looked for


class FailureWatch:
    """The watch of one process; a context in whose time the thread runs.

    prefix: of the keys in the store, another one after a restart.
    timeout: seconds after which a process counts as lost if it is silent, or if the others wait and it does not move.
    on_loss(failure): called once, before the thread ends this process because its main thread doesn't come back.
    A failure is {"rank", "exit_code", "message", "lost"}, the same one for all processes. lost: that rank can't say it
    itself. rank -1: no single one is to blame.
    `activity` counts how far this process has come.
    """

    def __init__(self, rank: int, size: int, *, prefix: str, timeout: float, on_loss: Callable[[dict], None]):
        self.rank, self.size, self.failure, self.activity = rank, size, None, Activity()
        self._prefix, self._timeout, self._on_loss = prefix, timeout, on_loss
        self._heard: dict[int, tuple[int, float]] = {}  # rank -> its last beat, and when it was new
        # rank -> what it published last, and when that was new
        self._still: dict[int, tuple[ActivityRecord, float]] = {}
        self._looked = time.monotonic()
        self._lock, self._leaving = threading.Lock(), threading.Event()
        self.exit_lock = threading.Lock()  # taken by who does what must not be cut off by the process's end

    def __enter__(self) -> "FailureWatch":
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # a client of its own: a wait of torch's own on the shared one would hold up the beats
        self._store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=self._timeout))
        self._set(f"who/{self.rank}", json.dumps([socket.gethostname(), os.getpid()]))
        self._set(f"place/{self.rank}", activity.to_text(self.activity.record()))
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        # Waited for: a thread that is inside torch when Python ends is cut off there, and aborts the process.
        self._thread.join(_GRACE_SECONDS)
        with suppress(RuntimeError):
            self._set(f"left/{self.rank}", "")

    def report_failure(self, exit_code: int, message: str) -> dict:
        """Says that this process fails; returns the failure that is the run's, which another may have said first.

        An exit code above 128 is a stop by a signal. A launcher sends one to all the others when a process is killed:
        then the failure is that one's, and not the stop.
        """
        failure = {"rank": self.rank, "exit_code": exit_code, "message": message, "lost": False}
        if exit_code > 128:
            with suppress(RuntimeError):  # the store is gone
                others = (rank for rank in range(self.size) if rank != self.rank and not self._has(f"left/{rank}"))
                gone = next(filter(self._dead, others), None)
                failure = failure if gone is None else self._lost(gone, "was lost: it is not there any more")
        return self._claim(failure)

    def find_cause(self, fallback: str) -> dict:
        """The failure behind a collective that failed here, which takes a few seconds to show; else `fallback`."""
        end, own = time.monotonic() + _PATIENCE_SECONDS, {"rank": self.rank, "exit_code": 1, "message": fallback}
        try:
            while time.monotonic() < end:
                if self.failure:
                    return self.failure
                silent = self._silent(_SUSPECT_SECONDS)
                if silent:
                    return self._claim(self._loss(silent[0]))
                time.sleep(BEAT_SECONDS / 5)
            return self._claim(self._hanging(0.0) or own | {"lost": True})
        except RuntimeError:  # the store is gone
            return own | {"lost": True}

    def announce(self, key: str, value: str = "") -> None:
        """Lets all that `wait_for_announcement` the key go on, with the value."""
        self._set(key, value)

    def wait_for_announcement(self, key: str) -> str:
        """What some process says, however long that takes; raises PeerError if one fails."""
        # No place that all processes pass, so it is not counted as one.
        with self.activity.long_work("waiting", at_most_seconds=math.inf):
            self._poll(lambda: self._has(key))
        return self._get(key)

    def wait_for_all(self, place: str) -> None:
        """Until all processes have come to the place; raises PeerError if one fails."""
        with self.activity.waiting_for_all():
            self._add(f"wait_for_all/{place}", 1)
            self._poll(lambda: self._add(f"wait_for_all/{place}", 0) >= self.size)

    def exchange(self, name: str, value: str) -> list[str]:
        """Gives `value` to all processes; returns what each of them gave, by rank. Raises PeerError if one fails."""
        self._set(f"{name}/{self.rank}", value)
        self.wait_for_all(name)
        return [self._get(f"{name}/{rank}") for rank in range(self.size)]

    def _poll(self, there: Callable[[], bool]) -> None:
        while not there():
            if self.failure:
                raise PeerError(f"rank {self.rank} waited for rank {self.failure['rank']}, which failed")
            time.sleep(BEAT_SECONDS / 10)

    def _run(self) -> None:
        """The thread: a beat, a look at the others, and the end of a process that can't end itself."""
        known = None
        while not self._leaving.wait(BEAT_SECONDS):
            try:
                self._look()
            except RuntimeError as error:  # the store is gone, and with it the launcher of the first machine
                message = f"the launcher of rank 0 is gone ({str(error).splitlines()[0]})"
                self.failure = self.failure or {"rank": 0, "exit_code": 1, "message": message, "lost": True}
            known = known or (time.monotonic() if self.failure else None)
            if known and time.monotonic() - known > _GRACE_SECONDS + _PATIENCE_SECONDS * (self._said_by_me()):
                self.exit_lock.acquire(timeout=self._timeout)
                try:
                    self._on_loss(self.failure)
                finally:
                    os._exit(self.failure["exit_code"] or 1)

    def _said_by_me(self) -> bool:
        return self.failure["rank"] == self.rank

    def _look(self) -> None:
        now, looked = time.monotonic(), self._looked
        self._looked = now
        if now - looked > 4 * BEAT_SECONDS + 1.0:  # it was stopped itself: what it knows of the others is old
            self._heard.clear()
            self._still.clear()
        self._add(f"beat/{self.rank}", 1)
        self._set(f"place/{self.rank}", activity.to_text(self.activity.record()))
        if self._has("failure"):
            self.failure = json.loads(self._get("failure"))
            return
        silent = self._silent(self._timeout)
        failure = self._loss(silent[0]) if silent else self._hanging(self._timeout)
        if failure:
            self._claim(failure)

    def _silent(self, seconds: float) -> list[int]:
        """Ranks that have not left and whose beat is older than that."""
        now, silent = time.monotonic(), []
        for rank in range(self.size):
            if rank == self.rank or self._has(f"left/{rank}"):
                continue
            beat = self._add(f"beat/{rank}", 0)
            if self._heard.get(rank, (None, now))[0] != beat:
                self._heard[rank] = (beat, now)
            elif now - self._heard[rank][1] > (_SUSPECT_SECONDS if self._dead(rank) else seconds):
                silent.append(rank)
        return silent

    def _dead(self, rank: int) -> bool:
        """Whether it was a process of this machine that isn't there any more."""
        host, pid = self._who(rank)
        if host != socket.gethostname():
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False

    def _hanging(self, timeout: float) -> dict | None:
        """The failure of a process that lives and does not move while the others wait for it; None if none does."""
        now, keys = time.monotonic(), [self._key(f"place/{rank}") for rank in range(self.size)]
        with self._lock:
            if not self._store.check(keys):  # one of them hasn't begun
                return None
            published = [activity.from_text(text.decode()) for text in self._store.multi_get(keys)]
        for rank, record in enumerate(published):
            if self._still.get(rank, (None,))[0] != record:
                self._still[rank] = record, now
        still = {rank: (record, now - when) for rank, (record, when) in self._still.items()}
        if not activity.find_hanging(still, timeout):  # asked for first, without a look at who has left
            return None
        still = {rank: value for rank, value in still.items() if not self._has(f"left/{rank}")}
        found = activity.find_hanging(still, timeout)
        if not found:
            return None
        rank, what = found
        if rank is None:
            return {"rank": -1, "lost": True, "exit_code": 1, "message": what}
        return self._lost(rank, what)

    def _loss(self, rank: int) -> dict:
        return self._lost(rank, f"was lost: silent for {time.monotonic() - self._heard[rank][1]:.0f} s")

    def _lost(self, rank: int, how: str) -> dict:
        host, pid = self._who(rank)
        return {"rank": rank, "lost": True, "exit_code": 1, "message": f"rank {rank} ({host}, process {pid}) {how}"}

    def _who(self, rank: int) -> tuple[str, int]:
        """(host, pid); a process that never started has neither."""
        return tuple(json.loads(self._get(f"who/{rank}"))) if self._has(f"who/{rank}") else ("nowhere", 0)

    def _claim(self, failure: dict) -> dict:
        try:
            with self._lock:
                held = self._store.compare_set(self._key("failure"), "", json.dumps(failure))
        except RuntimeError:  # the store is gone, and with it the launcher of the first machine
            held = json.dumps(self.failure or failure)
        self.failure = json.loads(held)
        return self.failure

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _set(self, name: str, value: str) -> None:
        with self._lock:
            self._store.set(self._key(name), value)

    def _get(self, name: str) -> str:
        with self._lock:
            return self._store.get(self._key(name)).decode()

    def _has(self, name: str) -> bool:
        with self._lock:
            return self._store.check([self._key(name)])

    def _add(self, name: str, count: int) -> int:
        with self._lock:
            return self._store.add(self._key(name), count)
