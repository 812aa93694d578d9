"""How far a process has come and what it is doing: what the other processes judge by whether it hangs."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch

HOUR = 3600.0


class ActivityRecord(NamedTuple):
    """What a process publishes about itself.

    device, host: how many beginnings and ends of waits its GPU has passed, and its main thread. An odd number means
    that the process waits for the others.
    ticks: a number that changes while the process works.
    work: the long work that it has announced, "" for none; at_most_seconds: seconds that this work may take.
    """

    device: int = 0
    host: int = 0
    ticks: int = 0
    work: str = ""
    at_most_seconds: float = 0.0

    @property
    def waits(self) -> bool:
        return self.device % 2 == 1 or self.host % 2 == 1

    def behind(self, other: "ActivityRecord") -> bool:
        """Whether the other process has come further."""
        return (self.device, self.host) < (other.device, other.host)


class Activity:
    """Counts the places that one process has passed. The main thread writes, the thread of the watch reads."""

    def __init__(self):
        self._host, self._ticks, self._work = 0, 0, []  # work: (what, at_most_seconds), the innermost last
        self._device, self._seen = None, torch.zeros((), dtype=torch.int64)

    def count_on_gpu(self, device: torch.device) -> None:
        """Lets a GPU count the collectives from here on.

        The host runs ahead of a GPU, and the collectives in a CUDA graph pass it by. So the GPU itself counts, and
        writes the count into memory of the host that the other thread reads without waiting.
        """
        if device.type == "cuda":
            self.count_with(torch.zeros((), dtype=torch.int64, device=device), self._seen.pin_memory())

    def count_with(self, counter: torch.Tensor, seen: torch.Tensor) -> None:
        """Counts collectives by adding to `counter`, () on the device, and copying it to `seen`, () on the host."""
        self._device, self._seen = counter, seen

    def count_progress(self) -> None:
        """Says that this process works."""
        self._ticks += 1

    @contextmanager
    def collective(self) -> Iterator[None]:
        """A context around a collective; after an exception the process still counts as waiting."""
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
        """A context in which the host waits for all other processes, at a place that all of them pass."""
        self._host += 1
        yield
        self._host += 1

    @contextmanager
    def long_work(self, what: str, *, at_most_seconds: float = HOUR) -> Iterator[None]:
        """A context around work that may take long on this process alone, such as "compiling".

        at_most_seconds: seconds after which it counts as a hang all the same.
        """
        self.begin_work(what, at_most_seconds=at_most_seconds)
        try:
            yield
        finally:
            self.end_work()

    def begin_work(self, what: str, *, at_most_seconds: float = HOUR) -> None:
        """The start of `long_work`, where a context doesn't fit."""
        self._work.append((what, at_most_seconds))

    def end_work(self) -> None:
        """The end of what began last."""
        self._ticks += 1
        self._work.pop()

    def record(self) -> ActivityRecord:
        work = self._work[-1:] or [("", 0.0)]
        return ActivityRecord(int(self._seen), self._host, self._ticks, *work[0])


def to_text(record: ActivityRecord) -> str:
    return json.dumps(record)


def from_text(text: str) -> ActivityRecord:
    return ActivityRecord(*json.loads(text))


def find_hanging(still: Mapping[int, tuple[ActivityRecord, float]], timeout: float) -> tuple[int | None, str] | None:
    """Finds the process that hangs.

    still: {rank: (its record, for how many seconds the record has not changed)} of the processes that have not left.
    A process hangs if another one waits, that one is further, and both have not moved for `timeout` seconds. Work that
    was announced may take longer, as long as it said. Among several, the one that is furthest behind hangs.
    Returns (rank, what it does), (None, what all do) if all wait for each other, None if nobody hangs.
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
        return rank, f"hangs: it lives, has not moved for {seconds:.0f} s{what}, and the others wait for it"
    if still and len(waiting) == len(still):
        return None, f"all processes wait for each other for {timeout:.0f} s: the connection between them hangs"
    return None
