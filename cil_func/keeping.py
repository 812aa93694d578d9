"""When a run is saved and when it stops: what `experiment.run` calls at each border."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

from cil_func import checkpoint
from cil_func.engine.distributed import World
from cil_func.errors import StoppedError
from cil_func.progress import Keep, Progress, pack
from cil_func.signals import NAMES, Signals

# What a process says of its signal: sums of the smaller one, over however many processes, stay below the larger one
_WEIGHTS = {signal.SIGTERM: 1 << 16, signal.SIGINT: 1}


class Keeper(Keep):
    """Saves at every boundary, and between two steps once `every_seconds` have passed; stops where a signal came.

    A signal is answered at once, by StoppedError from wherever the main thread is, while nothing changes: from a border
    until the step after it has been computed. `rescue`, called then, saves what that border's `make` gives. Several
    processes leave the step together instead: a signal in it waits for the next border, where all hear it. Only the
    first step since a save is left at once there too, for it may compile for a minute and nothing is lost.

    directory: of the checkpoints; number: of the first one to write; begun: the progress that was loaded, None at the
    start; extra(): what else the record says, JSON-able; warn: called with a line about what stops nothing.
    Every process of the world calls it at the same borders; only the first writes.
    """

    def __init__(
        self,
        directory: Path,
        world: World,
        signals: Signals,
        *,
        every_seconds: float,
        number: int = 0,
        begun: Progress | None = None,
        extra: Callable[[], dict] = dict,
        warn: Callable[[str], None] = lambda message: None,
    ):
        self._directory, self._world, self._signals, self._warn = directory, world, signals, warn
        self._every, self._number, self._extra = every_seconds, number, extra
        self._saved_at, self._saved = time.monotonic(), begun and _border(begun)
        self._words = str(begun) if begun else ""  # of what is saved
        self._make: Callable[[], Progress] | None = None  # the progress now, while nothing changes
        self._trained = False  # whether a step was taken since the last save

    def __call__(self, make: Callable[[], Progress], boundary: bool) -> None:
        """Raises StoppedError after saving, where the run is to stop."""
        self._signals.defer()
        self._make = None
        hear = self._world.consult if boundary else self._world.heard
        received = _loudest(hear(_WEIGHTS.get(self._signals.received, 0)))
        due = time.monotonic() - self._saved_at >= self._every
        if received or boundary or (self._world.first and due):
            self._save(make())
        if received:
            self._world.meet("stop")  # nobody leaves before it is on disk: launchers end the others
            raise StoppedError(128 + received, self._message(received))
        if boundary or self._world.size == 1 or not self._trained:
            self.pause(make)

    def pause(self, make: Callable[[], Progress]) -> None:
        """Raises StoppedError if a signal came before."""
        self._make = make
        self._signals.release()

    def changing(self) -> None:
        self._signals.defer()
        self._make, self._trained = None, True

    def rescue(self) -> None:
        """Saves what was trained since the last save, for a run that ends between two borders, where it can."""
        self._signals.defer()
        make, self._make = self._make, None
        if make and self._trained and self._world.first:
            self._save(make())
        received = self._signals.received
        if received:
            raise StoppedError(128 + received, self._message(received, everywhere=False))

    def _save(self, progress: Progress) -> None:
        """Saves a progress that isn't saved yet; processes other than the first take a note that it is."""
        if self._world.first and _border(progress) != self._saved:
            parts, record = pack(progress)
            with self._world.uncut(), self._world.places.working("saving a checkpoint"):
                problems = checkpoint.save(self._directory, parts, record | self._extra(), number=self._number)
            for message in problems:
                self._warn(message)
            self._number += 1
        self._saved_at, self._saved, self._trained = time.monotonic(), _border(progress), False
        self._words = str(progress)

    def _message(self, received: int, *, everywhere: bool = True) -> str:
        """everywhere: whether all processes stop at this place."""
        if not everywhere and not self._world.first:
            return f"stopped by {NAMES[received]}; the same command goes on from the newest checkpoint"
        if not self._words:
            return f"stopped by {NAMES[received]} before anything was trained; the same command begins anew"
        return f"stopped by {NAMES[received]} and saved ({self._words}); the same command goes on from there"


def _border(progress: Progress) -> tuple:
    return progress.place, progress.selected


def _loudest(heard: int) -> int:
    """The signal to obey, SIGTERM before SIGINT, from the sum over all processes of what each says; 0 for none."""
    return next((number for number, weight in _WEIGHTS.items() if heard >= weight), 0)
