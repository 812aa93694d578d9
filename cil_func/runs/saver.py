"""Saves and stops a run: what the training calls before each step and after each part of a phase."""

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

# What each process adds for its signal. Any number of processes with one signal stays below one with the signal before.
_WEIGHTS: dict[int, int] = {signal.SIGTERM: 1 << 16, signal.SIGINT: 1}
if hasattr(signal, "SIGHUP"):
    _WEIGHTS = {signal.SIGHUP: 1 << 32} | _WEIGHTS


class CheckpointSaver(SaveHook[Progress]):
    """Saves checkpoints while a run goes on, and stops it after saving if a signal has come.

    A border is a moment before a training step or after a part of a phase: the training calls `at_border` there. The
    saver saves after each part of a phase, and between two steps once `every_seconds` have passed since the last save.
    A thread hashes and writes one checkpoint at a time while the training goes on. What that thread raises is raised at
    the next border. All processes call this object at the same borders; only rank 0 writes.

    One process stops at a signal at once: while nothing changes, from a border until the next step has been computed,
    StoppedError is raised wherever the main thread is, and `save_after_failure` saves the state of the border. Several
    processes must leave together: a signal waits for the next border, where all learn of it. Only in the first step
    after a save a signal stops them at once too, since that step may compile for a minute and nothing is lost.

    directory: for the checkpoints. processes: those of the run. signals: those of this process.
    every_seconds: between two saves inside a phase. number: of the first checkpoint to write.
    begun: the progress of the checkpoint that the run goes on from; None for a new run.
    extra: returns further JSON-able keys for a checkpoint's record; called at each save, in the main thread.
    warn: called with one line about each problem that doesn't stop the run.
    A context manager: its end waits until the last checkpoint is written.
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
        self._saved_text = str(begun) if begun else ""  # the last saved progress, for messages
        self._make: Callable[[], Progress] | None = None  # returns the progress now; None while it changes
        self._trained = False  # whether a step was computed since the last save
        self._stopped: StoppedError | None = None  # with which all processes left at a border
        self._writer = CheckpointWriter(directory, verified=number - 1)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")  # it starts with the first save
        self._writing: Future[list[str]] | None = None

    def __enter__(self) -> "CheckpointSaver":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self._signals.defer()
        try:
            self.wait()
        except Exception:
            if kind is None:  # otherwise the exception that ends the run is the cause
                raise
        finally:
            self._thread.shutdown()

    def at_border(self, make: Callable[[], Progress], boundary: bool) -> None:
        """Saves if it is time. Raises StoppedError, after saving, if a process has received a signal.

        make: called to get the progress if it is saved. boundary: True after a part of a phase, False before a step.
        Also raises what the thread that writes has raised, such as DiskError.
        """
        self._signals.defer()
        self._make = None
        exchange = self._processes.signals_now if boundary else self._processes.signals_at_step
        received = _strongest(exchange(_WEIGHTS.get(self._signals.received, 0)))
        if self._writing and self._writing.done():
            self.wait()
        due = time.monotonic() - self._saved_at >= self._every and not self._writing
        if received or boundary or (self._processes.first and due):
            self._save(make())
        if received:
            self.wait()
            # No process ends before the checkpoint is written: the launcher would end all others.
            self._processes.wait_for_all("stop")
            self._stopped = StoppedError(128 + received, self._message(received))
            raise self._stopped
        if boundary or self._processes.size == 1 or not self._trained:
            self.before_long_work(make)

    def before_long_work(self, make: Callable[[], Progress]) -> None:
        """Lets signals raise StoppedError at once from now on. Raises it now if one has come already.

        make: returns the progress, which doesn't change until `before_change` is called.
        """
        self._make = make
        self._signals.release()

    def before_change(self) -> None:
        """Defers signals until the next border, since a step is about to change the progress."""
        self._signals.defer()
        self._make, self._trained = None, True

    def save_after_failure(self) -> None:
        """Saves what was trained since the last save. Call it if StoppedError or PeerError ends the run.

        Saves nothing if a step was just changing the state. Raises StoppedError, with a message for the person, if this
        process has received a signal. Raises what the thread that writes has raised.
        """
        self._signals.defer()
        make, self._make = self._make, None
        if make and self._trained and self._processes.first:
            self._save(make())
        self.wait()
        received = self._signals.received
        if received:
            raise self._stopped or StoppedError(128 + received, self._message(received, everywhere=False))

    def wait(self) -> None:
        """Waits until the last checkpoint is on disk; passes its warnings to `warn`. Raises what the thread raised."""
        if self._writing:
            with self._processes.activity.long_work("saving a checkpoint"):
                concurrent.futures.wait([self._writing])
            writing, self._writing = self._writing, None
            for message in writing.result():
                self._warn(message)

    def _save(self, progress: Progress) -> None:
        """Lets the thread write `progress`, unless it is saved already. Other processes than rank 0 only note it."""
        if self._processes.first and _border(progress) != self._saved:
            self.wait()
            parts, record = pack(progress)
            staged = self._writer.stage(parts)
            self._writing = self._thread.submit(self._write, staged, record | self._extra(), self._number)
            self._number += 1
        self._saved_at, self._saved, self._trained = time.monotonic(), _border(progress), False
        self._saved_text = str(progress)

    def _write(self, staged: list[Staged], record: dict, number: int) -> list[str]:
        with self._processes.delay_forced_exit():
            return self._writer.write(staged, record, number=number)

    def _message(self, received: int, *, everywhere: bool = True) -> str:
        """Returns the message about a stop by the signal `received`: what was saved, and how the run goes on.

        everywhere: whether all processes stop at this border. If not, only rank 0 knows what was saved.
        """
        if not everywhere and not self._processes.first:
            return f"stopped by {NAMES[received]}; the same command goes on from the newest checkpoint"
        if not self._saved_text:
            return f"stopped by {NAMES[received]} before anything was trained; the same command begins anew"
        return f"stopped by {NAMES[received]} and saved ({self._saved_text}); the same command goes on from there"


def _border(progress: Progress) -> tuple:
    """Returns a value that is equal for two progresses if they are at the same border of a run."""
    return progress.place, progress.selected


def _strongest(total: int) -> int:
    """Returns the signal that the run obeys, SIGHUP before SIGTERM before SIGINT; 0 if no process has received one.

    total: the sum of all processes' _WEIGHTS.
    """
    return next((number for number, weight in _WEIGHTS.items() if total >= weight), 0)
