"""Turns SIGINT, SIGTERM and SIGHUP into a stop of the run, after saving if there is time for it."""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from cil_func.errors import StoppedError

NAMES: dict[int, str] = {
    getattr(signal, name): name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
}
_HANG_UP = getattr(signal, "SIGHUP", None)  # Windows has none
_SAME_SECONDS = 1.0  # Ctrl-C on a terminal reaches a process twice, from the terminal and from the launcher


def handled() -> list[int]:
    """Returns the signals that stop this process: those of NAMES, but not SIGHUP where nohup has it ignored."""
    ignored = _HANG_UP is not None and signal.getsignal(_HANG_UP) == signal.SIG_IGN
    return [number for number in NAMES if number != _HANG_UP or not ignored]


class Signals:
    """A context manager that handles SIGINT, SIGTERM and SIGHUP, of a terminal that was closed, during its block.

    If the process was started to ignore SIGHUP, as by nohup, that stays ignored.

    received: the number of the first signal, 0 while none has come. Between `defer` and `release` a signal is only
    stored there. Otherwise it raises StoppedError wherever the main thread is, and `release` raises it for a signal
    that was deferred.
    at_once: called with the exit status, 128 + signal, if a second signal comes more than a second after the first;
    then the process ends at once.
    After `ignore_more` signals do nothing. Outside the main thread Python allows no handlers, and the signals keep
    their usual effect.
    """

    def __init__(self, at_once: Callable[[int], None] = lambda status: None):
        self.received = 0
        self._at_once, self._deferred, self._ignored, self._when = at_once, False, False, 0.0
        self._previous: dict[int, Any] = {}  # what `signal.signal` has returned

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in handled()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def defer(self) -> None:
        """From now on a signal is only stored in `received`, until `release` is called."""
        self._deferred = True

    def release(self) -> None:
        """Lets the next signal raise StoppedError at once. Raises it now if a signal has come already."""
        self._deferred = False
        if self.received:
            raise self._stop()

    def ignore_more(self) -> None:
        """Ignores signals from now on. For a run that ends already: launchers send more while it reports why."""
        self._ignored = True

    def _receive(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if self._ignored:
            return
        if self.received:
            if now - self._when > _SAME_SECONDS:
                self._at_once(128 + number)
                os._exit(128 + number)
            return
        self.received, self._when = number, now
        if not self._deferred:
            raise self._stop()

    def _stop(self) -> StoppedError:
        return StoppedError(128 + self.received, f"stopped by {NAMES[self.received]} before the training began")
