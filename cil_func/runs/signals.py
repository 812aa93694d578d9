"""SIGINT and SIGTERM: a request to stop, at once or at the next step, and to be quick about it when it comes twice."""

import os
import signal
import threading
import time
from collections.abc import Callable

from cil_func.errors import StoppedError

NAMES = {signal.SIGINT: "SIGINT", signal.SIGTERM: "SIGTERM"}
_SAME_SECONDS = 1.0  # Ctrl-C on a terminal reaches a process twice, by the terminal and by the launcher


class Signals:
    """A context in which the first signal is noted in `received` (0: none) and stops the run.

    It raises StoppedError at once, wherever the main thread is, unless `defer` was called: then it waits for `release`
    or for whoever looks at `received`. A second one, a second later or more, calls at_once(exit status) and ends the
    process. After `settle` none counts. Outside the main thread Python takes no handlers, and the signals keep their
    meaning.
    """

    def __init__(self, at_once: Callable[[int], None] = lambda status: None):
        self.received = 0
        self._at_once, self._deferred, self._settled, self._when = at_once, False, False, 0.0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in NAMES}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def defer(self) -> None:
        """From here on a signal raises nothing."""
        self._deferred = True

    def release(self) -> None:
        """From here on a signal raises StoppedError at once; this call does if one came meanwhile."""
        self._deferred = False
        if self.received:
            raise self._stop()

    def ignore_more(self) -> None:
        """The run ends already: launchers send more signals to those that take a moment to tell why."""
        self._settled = True

    def _receive(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if self._settled:
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
