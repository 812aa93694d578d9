"""When a run is saved and when it stops: what `experiment.run` calls at each border."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

from cil_func import checkpoint
from cil_func.engine.distributed import World
from cil_func.errors import StoppedError
from cil_func.progress import Progress, pack
from cil_func.signals import NAMES, Signals

# What a process says of its signal: sums of the smaller one, over however many processes, stay below the larger one
_WEIGHTS = {signal.SIGTERM: 1 << 16, signal.SIGINT: 1}


class Keeper:
    """Saves at every boundary, and between two steps once `every_seconds` have passed; stops where a signal came.

    directory: of the checkpoints; number: of the first one to write; extra(): what else the record says, JSON-able.
    Every process of the world calls it at the same borders, and all hear a signal that one of them got at the same one;
    only the first writes.
    """

    def __init__(
        self,
        directory: Path,
        world: World,
        signals: Signals,
        *,
        every_seconds: float,
        number: int = 0,
        extra: Callable[[], dict] = dict,
        warn: Callable[[str], None] = lambda message: None,
    ):
        self._directory, self._world, self._signals, self._warn = directory, world, signals, warn
        self._every, self._number, self._extra = every_seconds, number, extra
        self._saved_at, self._saved = time.monotonic(), None  # when, and which border

    def __call__(self, make: Callable[[], Progress], boundary: bool) -> None:
        """make() is the progress at this border. Raises StoppedError after saving, where the run is to stop."""
        hear = self._world.consult if boundary else self._world.heard
        received = _loudest(hear(_WEIGHTS.get(self._signals.received, 0)))
        due = time.monotonic() - self._saved_at >= self._every
        if received or (self._world.first and (boundary or due)):
            progress = make()
            if self._world.first:
                self._save(progress)
        if received:
            self._world.meet("stop")  # nobody leaves before it is on disk: launchers end the others
            message = f"stopped by {NAMES[received]} and saved ({progress}); the same command goes on from there"
            raise StoppedError(128 + received, message)

    def _save(self, progress: Progress) -> None:
        border = (progress.place, progress.selected)
        if border != self._saved:
            parts, record = pack(progress)
            for message in checkpoint.save(self._directory, parts, record | self._extra(), number=self._number):
                self._warn(message)
            self._number += 1
        self._saved_at, self._saved = time.monotonic(), border


def _loudest(heard: int) -> int:
    """The signal to obey, SIGTERM before SIGINT, from the sum over all processes of what each says; 0 for none."""
    return next((number for number, weight in _WEIGHTS.items() if heard >= weight), 0)
