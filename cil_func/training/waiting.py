"""Measures how long a training waits for its images."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

from cil_func.training.events import Emit

STALLED = 0.2  # the share of an epoch's time from which on it is worth a line

T = TypeVar("T")


class Waiting:
    """Adds up the time for which the device had nothing to do because the next chunk of images wasn't there.

    device: that trains. On a CPU that is the time in which the training thread waits. On a GPU, which the host runs
    ahead of, it is the time between the end of the work that was queued before a wait and the wait's own end.
    workers: how many processes decode the images; None: they are in memory. emit: takes a "data_stall" event, once, if
    images are in files and an epoch waits long for them.
    """

    def __init__(
        self, device: torch.device | None = None, workers: int | None = None, emit: Emit = lambda event: None
    ) -> None:
        self._cuda = device is not None and device.type == "cuda" and workers is not None
        self._workers, self._emit = workers, emit
        self._seconds = 0.0
        self._gaps: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def around(self, chunks: Iterable[T]) -> Iterator[T]:
        """Yields the chunks, and measures each wait for one."""
        iterator = iter(chunks)
        while True:
            started, before = time.perf_counter(), self._mark()
            try:
                chunk = next(iterator)
            except StopIteration:
                return
            self._seconds += time.perf_counter() - started
            after = self._mark()
            if before and after:
                self._gaps.append((before, after))
            yield chunk

    def end_epoch(self, seconds: float) -> None:
        """Ends an epoch that took so many seconds, and emits the event if its share of waiting is STALLED or more.

        The device must have finished its work.
        """
        waited = sum(before.elapsed_time(after) for before, after in self._gaps) / 1000 if self._cuda else self._seconds
        self._seconds = 0.0
        self._gaps.clear()
        if self._workers is not None and waited >= STALLED * seconds:
            share, way = waited / seconds, "more data.workers" if self._workers else "data.workers above 0"
            line = f"data is the bottleneck: {100 * share:.0f} % of the time waiting; {way}?"
            self._emit({"event": "data_stall", "share": share, "workers": self._workers, "message": line})
            self._workers = None  # once is enough

    def _mark(self) -> "torch.cuda.Event | None":
        """Returns an event that the GPU passes when it has done what is queued; None on a CPU."""
        if not self._cuda:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
