"""SIGINT and SIGTERM: a request to stop at the next step, and to be quick about it when it comes twice."""

import os
import signal
import threading
import time
from collections.abc import Callable

from cil_func.errors import StoppedError

NAMES = {signal.SIGINT: "SIGINT", signal.SIGTERM: "SIGTERM"}
_SAME_SECONDS = 1.0  # Ctrl-C on a terminal reaches a process twice, by the terminal and by the launcher


class Signals:
    """A context in which both signals only leave a note in `received` (0: none).

    Before `defer` there is nothing to save, and the first one raises StoppedError wherever the main thread is. A
    second one, a second later or more, calls at_once(exit status) and ends the process. After `settle` none counts.
    Outside the main thread Python takes no handlers, and the signals keep their meaning.
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
        """From here on a signal waits for whoever looks at `received`."""
        self._deferred = True

    def settle(self) -> None:
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
            raise StoppedError(128 + number, f"stopped by {NAMES[number]} before the training began")
