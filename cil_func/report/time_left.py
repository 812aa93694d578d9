"""Estimates how long a run will still take, from its events so far."""

import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

_EPOCHS = 9  # how many recent epochs the pace is taken from


class TimeLeft:
    """Takes the events of a run and estimates the seconds until the run ends.

    The estimate has two terms: the images that are still to be trained on, at the recent pace; and for each phase that
    has not ended the mean time that finished phases spent outside their epochs (selection, evaluation, saving). The
    pace is the *median* of recent epochs: an epoch that waits for a compilation would spoil a mean for long. Phases
    before the first one seen count as done, so the estimate is right for a run that is resumed.

    clock: a function that returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._planned: list[int] = []  # images to train on in each phase
        self._phase = 0
        self._images = 0  # in one epoch of the current phase
        self._done = 0  # images of the current phase in whole epochs
        self._partial = 0  # images of the epoch that is going on
        self._first: tuple[float, int] | None = None  # time and images of the run's first "progress"
        self._paces: deque[float] = deque(maxlen=_EPOCHS)  # seconds for an image
        self._began = clock()
        self._trained = 0.0  # seconds of the current phase inside epochs
        self._outside: list[float] = []  # seconds outside epochs, of each finished phase

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Takes one event. Events that say nothing about time are ignored."""
        if event.get("stage"):  # later stages of a phase are short, and count as time outside its epochs
            return
        match event.get("event"):
            case "run_start" | "resume":
                images, epochs = event.get("train_images") or [], event.get("epochs") or []
                self._planned = [count * times for count, times in zip(images, epochs, strict=False)]
                self._phase = event.get("phase", 0)  # where a run goes on, whose "phase_start" came before
                self._images = images[self._phase] if self._phase < len(images) else 0
            case "phase_start":
                self._phase, self._done, self._partial = event["phase"], 0, 0
                self._images = event.get("train_images") or 0
                self._began, self._trained = self._clock(), 0.0
            case "progress":
                self._done = event.get("epoch", 0) * self._images  # above 0 if a run goes on inside a phase
                self._partial += event["images"]
                self._first = self._first or (self._clock(), self._partial)
            case "epoch":
                self._end_epoch(event.get("epoch", 0), event.get("images") or 0, event.get("seconds") or 0.0)
            case "phase_end":
                self._outside.append(max(0.0, self._clock() - self._began - self._trained))
                self._phase, self._done, self._partial = event["phase"] + 1, 0, 0

    def images(self) -> int:
        """Returns how many images were trained on in the current phase; an image counts once for each epoch."""
        return self._done + self._partial

    def seconds(self) -> float | None:
        """Returns the seconds until the run ends; None until training has begun and the run's plan is known."""
        pace = self._pace()
        if pace is None or not self._planned:
            return None
        images = max(0, sum(self._planned[self._phase :]) - self.images())
        outside = statistics.fmean(self._outside) if self._outside else 0.0
        return images * pace + max(0, len(self._planned) - self._phase) * outside

    def _end_epoch(self, epoch: int, images: int, seconds: float) -> None:
        trained = self._partial or images  # fewer than `images` if a run goes on inside the epoch
        self._done, self._partial = (epoch + 1) * images, 0
        self._trained += seconds
        if trained and seconds:
            self._paces.append(seconds / trained)

    def _pace(self) -> float | None:
        """Returns how many seconds an image takes, None if unknown.

        As long as no epoch has ended, it is taken from the steps after the first one, which may have compiled.
        """
        if self._paces:
            return statistics.median_low(self._paces)
        if self._first is None or self._partial <= self._first[1]:
            return None
        return (self._clock() - self._first[0]) / (self._partial - self._first[1])


def duration(seconds: float | None) -> str:
    """Returns a number of seconds as text, h:mm:ss, or "-" for None."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
