"""When a run is saved and when it stops: what `experiment.run` calls at each border."""

import concurrent.futures
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from cil_func.errors import StoppedError
from cil_func.parallel.processes import Processes
from cil_func.runs.checkpoint_writer import CheckpointWriter, Staged
from cil_func.runs.signals import NAMES, Signals
from cil_func.training.progress import Progress, SaveHook, pack

# What a process says of its signal: sums of the smaller one, over however many processes, stay below the larger one
_WEIGHTS = {signal.SIGTERM: 1 << 16, signal.SIGINT: 1}


class CheckpointSaver(SaveHook):
    """Saves at every boundary, and between two steps once `every_seconds` have passed; stops where a signal came.

    A signal is answered at once, by StoppedError from wherever the main thread is, while nothing changes: from a border
    until the step after it has been computed. `rescue`, called then, saves what that border's `make` gives. Several
    processes leave the step together instead: a signal in it waits for the next border, where all hear it. Only the
    first step since a save is left at once there too, for it may compile for a minute and nothing is lost.

    A thread hashes and writes while the training goes on, one checkpoint at a time. What it raises is raised at the
    next border. The saver is a context manager: its end waits for the thread.

    directory: of the checkpoints; number: of the first one to write; begun: the progress that was loaded from the one
    before, None at the start; extra(): what else the record says, JSON-able; warn: called with a line about what stops
    nothing. Every process of the processes calls it at the same borders; only the first writes.
    """

    def __init__(
        self,
        directory: Path,
        processes: Processes,
        signals: Signals,
        *,
        every_seconds: float,
        number: int = 0,
        begun: Progress | None = None,
        extra: Callable[[], dict] = dict,
        warn: Callable[[str], None] = lambda message: None,
    ):
        self._processes, self._signals, self._warn = processes, signals, warn
        self._every, self._number, self._extra = every_seconds, number, extra
        self._saved_at, self._saved = time.monotonic(), begun and _border(begun)
        self._words = str(begun) if begun else ""  # of what is saved
        self._make: Callable[[], Progress] | None = None  # the progress now, while nothing changes
        self._trained = False  # whether a step was taken since the last save
        self._saver = CheckpointWriter(directory, verified=number - 1)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")  # which starts with the first save
        self._writing: Future[list[str]] | None = None

    def __enter__(self) -> "CheckpointSaver":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._signals.defer()
        try:
            self.wait()
        except Exception:
            if kind is None:  # else what ends the run came first
                raise
        finally:
            self._thread.shutdown()

    def at_border(self, make: Callable[[], Progress], boundary: bool) -> None:
        """Raises StoppedError after saving, where the run is to stop."""
        self._signals.defer()
        self._make = None
        hear = self._processes.signals_now if boundary else self._processes.signals_at_step
        received = _loudest(hear(_WEIGHTS.get(self._signals.received, 0)))
        if self._writing and self._writing.done():
            self.wait()
        due = time.monotonic() - self._saved_at >= self._every and not self._writing
        if received or boundary or (self._processes.first and due):
            self._save(make())
        if received:
            self.wait()
            self._processes.wait_for_all("stop")  # nobody leaves before it is on disk: launchers end the others
            raise StoppedError(128 + received, self._message(received))
        if boundary or self._processes.size == 1 or not self._trained:
            self.before_long_work(make)

    def before_long_work(self, make: Callable[[], Progress]) -> None:
        """Raises StoppedError if a signal came before."""
        self._make = make
        self._signals.release()

    def before_change(self) -> None:
        self._signals.defer()
        self._make, self._trained = None, True

    def save_after_failure(self) -> None:
        """Saves what was trained since the last save, for a run that ends between two borders, where it can."""
        self._signals.defer()
        make, self._make = self._make, None
        if make and self._trained and self._processes.first:
            self._save(make())
        self.wait()
        received = self._signals.received
        if received:
            raise StoppedError(128 + received, self._message(received, everywhere=False))

    def wait(self) -> None:
        """Returns once the last checkpoint is on disk; raises what the thread raised."""
        if self._writing:
            with self._processes.activity.long_work("saving a checkpoint"):
                concurrent.futures.wait([self._writing])
            writing, self._writing = self._writing, None
            for message in writing.result():
                self._warn(message)

    def _save(self, progress: Progress) -> None:
        """Lets the thread save a progress that isn't saved yet; processes other than the first note that it is."""
        if self._processes.first and _border(progress) != self._saved:
            self.wait()
            parts, record = pack(progress)
            staged = self._saver.stage(parts)
            self._writing = self._thread.submit(self._write, staged, record | self._extra(), self._number)
            self._number += 1
        self._saved_at, self._saved, self._trained = time.monotonic(), _border(progress), False
        self._words = str(progress)

    def _write(self, staged: list[Staged], record: dict, number: int) -> list[str]:
        with self._processes.delay_forced_exit():
            return self._saver.write(staged, record, number=number)

    def _message(self, received: int, *, everywhere: bool = True) -> str:
        """everywhere: whether all processes stop at this place."""
        if not everywhere and not self._processes.first:
            return f"stopped by {NAMES[received]}; the same command goes on from the newest checkpoint"
        if not self._words:
            return f"stopped by {NAMES[received]} before anything was trained; the same command begins anew"
        return f"stopped by {NAMES[received]} and saved ({self._words}); the same command goes on from there"


def _border(progress: Progress) -> tuple:
    return progress.place, progress.selected


def _loudest(signals_at_step: int) -> int:
    """The signal to obey, SIGTERM before SIGINT, from the sum over all processes of what each says; 0 for none."""
    return next((number for number, weight in _WEIGHTS.items() if signals_at_step >= weight), 0)
