"""Records how far a process has come and what it is doing, and finds the process that hangs."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch

HOUR = 3600.0


class ActivityRecord(NamedTuple):
    """How far a process has come and what it is doing, as the other processes read it.

    device, host: how many starts and ends of waits for the other processes its GPU, or its main thread, has passed. An
    odd number means that it is waiting. On a CPU collectives are counted in `host`, and `device` is 0.
    ticks: a number that changes while the process works.
    work: the long work that the process has announced, "" for none. at_most_seconds: how long this work may take.
    """

    device: int = 0
    host: int = 0
    ticks: int = 0
    work: str = ""
    at_most_seconds: float = 0.0

    @property
    def waits(self) -> bool:
        """Whether the GPU or the main thread is waiting for the other processes."""
        return self.device % 2 == 1 or self.host % 2 == 1

    def behind(self, other: "ActivityRecord") -> bool:
        """Returns whether the other process has passed more waits: on its GPU, or else in its main thread."""
        return (self.device, self.host) < (other.device, other.host)


class Activity:
    """Counts what this process does. The main thread writes it, the thread of `FailureWatch` reads `record`."""

    def __init__(self):
        self._host, self._ticks, self._work = 0, 0, []  # work: a stack of (what, at_most_seconds)
        self._device, self._seen = None, torch.zeros((), dtype=torch.int64)

    def count_on_gpu(self, device: torch.device) -> None:
        """Makes the GPU count the collectives from now on. Does nothing for a CPU: there the main thread counts.

        The main thread queues work and runs ahead of the GPU, and the collectives inside a CUDA graph don't pass it at
        all. So the GPU counts, and writes its count into host memory that the other thread reads without waiting.
        """
        if device.type == "cuda":
            self.count_with(torch.zeros((), dtype=torch.int64, device=device), self._seen.pin_memory())

    def count_with(self, counter: torch.Tensor, seen: torch.Tensor) -> None:
        """Makes the device count the collectives: it adds 1 to `counter` and copies that to `seen`.

        counter: int64 (), on the device. seen: int64 (), on the host, page-locked for a GPU.
        """
        self._device, self._seen = counter, seen

    def count_progress(self) -> None:
        """Records that this process is working. Call it now and then during work that others wait for."""
        self._ticks += 1

    @contextmanager
    def collective(self) -> Iterator[None]:
        """Returns a context manager for a collective: it counts the start and the end of waiting.

        If the block raises, the end is not counted: the process counts as waiting from then on.
        """
        self._pass()
        yield
        self._pass()

    def _pass(self) -> None:
        if self._device is None:
            self._host += 1
        else:
            self._device.add_(1)
            self._seen.copy_(self._device, non_blocking=True)

    @contextmanager
    def waiting_for_all(self) -> Iterator[None]:
        """Returns a context manager in which the main thread waits for all processes; it counts the start and the end.

        All processes must enter it equally often, since their counts are compared.
        """
        self._host += 1
        yield
        self._host += 1

    @contextmanager
    def long_work(self, what: str, *, at_most_seconds: float = HOUR) -> Iterator[None]:
        """Returns a context manager that announces work which may keep the other processes waiting for long.

        what: a name for messages, such as "compiling". at_most_seconds: if the process's record doesn't change for this
        time, it counts as hanging; the timeout of `find_hanging` counts instead if it is longer.
        """
        self.begin_work(what, at_most_seconds=at_most_seconds)
        try:
            yield
        finally:
            self.end_work()

    def begin_work(self, what: str, *, at_most_seconds: float = HOUR) -> None:
        """Announces long work until `end_work` is called. The arguments are those of `long_work`."""
        self._work.append((what, at_most_seconds))

    def end_work(self) -> None:
        """Ends the work that was announced last."""
        self._ticks += 1
        self._work.pop()

    def record(self) -> ActivityRecord:
        """Returns the present counts, and the work that was announced last and has not ended."""
        work = self._work[-1:] or [("", 0.0)]
        return ActivityRecord(int(self._seen), self._host, self._ticks, *work[0])


def to_text(record: ActivityRecord) -> str:
    """Returns a record as JSON."""
    return json.dumps(record)


def from_text(text: str) -> ActivityRecord:
    """Returns the record that `to_text` turned into `text`."""
    return ActivityRecord(*json.loads(text))


def find_hanging(still: Mapping[int, tuple[ActivityRecord, float]], timeout: float) -> tuple[int | None, str] | None:
    """Finds the process that hangs.

    still: {rank: (its record, for how many seconds the record has not changed)} of the processes that have not ended.
    timeout: seconds.
    A process hangs if it doesn't wait, another one waits and has passed more waits, and the records of both have not
    changed for `timeout` seconds, or for the time that announced work may take if that is longer. If there are several,
    the one that has passed the fewest waits is taken.
    Returns (rank, a message about it) if one hangs, (None, a message) if all processes wait for each other, else None.
    """
    stuck = {
        rank: record for rank, (record, seconds) in still.items() if seconds >= max(timeout, record.at_most_seconds)
    }
    waiting = [record for record in stuck.values() if record.waits]
    behind = [
        rank for rank, record in stuck.items() if not record.waits and any(record.behind(other) for other in waiting)
    ]
    if behind:
        rank = min(behind, key=lambda rank: stuck[rank][:2])
        record, seconds = still[rank]
        what = f" while {record.work}" if record.work else ""
        return rank, f"hangs: it is alive, has not moved for {seconds:.0f} s{what}, and the others wait for it"
    if still and len(waiting) == len(still):
        return None, f"all processes wait for each other for {timeout:.0f} s: the connection between them hangs"
    return None
