"""One run and its directory: from a configuration to results, the saved model and a report; begun, or gone on with."""

import errno
import json
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cil_func import experiment
from cil_func.config import Config
from cil_func.errors import CilError, DiskError, MachineError, OwnCodeError, PeerError, StoppedError, printable
from cil_func.parallel.joining import join
from cil_func.parallel.launch import Launch
from cil_func.parallel.processes import Processes
from cil_func.report import tables
from cil_func.runs import checkpoints, files, machine, planning, report_files, same_images, saved_model, setup, status
from cil_func.runs.directory import FoundRun, claim_directory, read_directory, refuse_another_run
from cil_func.runs.recording import Recorder, recorder
from cil_func.runs.saver import CheckpointSaver
from cil_func.runs.signals import Signals
from cil_func.training import progress as progressing
from cil_func.training import runners
from cil_func.training.progress import Progress

TRACEBACK = "traceback.txt"
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def run(config: Config, directory: Path, launch: Launch | None = None, *, warnings: Sequence[str] = ()) -> int:
    """Trains, or goes on with what the directory holds; returns the exit status.

    The run directory is the contract's (README). launch: what the launcher says, None: one process. warnings: what a
    person was warned of before, for the log of a new run. A failure is in status.json, once the directory is known to
    be this run's, and one line on stderr (a bug: its traceback) by the process that failed; all processes return its
    exit status.
    """
    reporter = StatusReporter(directory)

    def work(processes: Processes, signals: Signals) -> None:
        with claim_directory(directory, processes):
            _run(config, directory, processes, signals, reporter, warnings)

    return _with_others(config, launch or Launch(), reporter, work)


def plan(config: Config, directory: Path, launch: Launch | None = None) -> int:
    """Prints what a run would do, and returns the exit status: builds everything, trains and writes nothing.

    The processes that the launcher has started do it together, so that the plan is refused where the run would be.
    """

    def work(processes: Processes, signals: Signals) -> None:
        if processes.first:
            refuse_another_run(config, directory)
        ready = setup.build(config, processes)
        text = planning.describe(ready)
        if processes.first:
            print(text, *(f"warning: {message}" for message in data_warnings(ready)), sep="\n", flush=True)

    return _with_others(config, launch or Launch(), StatusReporter(directory), work)


def profile(config: Config, directory: Path, steps: int) -> int:
    """Traces `steps` training steps into directory/trace.json, prints the report, and returns the exit status."""
    from cil_func.runs import profiling  # late: torch's profiler costs a moment, and few runs want it

    def work(processes: Processes, signals: Signals) -> None:
        print(profiling.run(config, directory, steps), flush=True)

    return _with_others(config, Launch(), StatusReporter(directory), work)


def _with_others(
    config: Config, launch: Launch, reporter: "StatusReporter", work: Callable[[Processes, Signals], None]
) -> int:
    """Calls work(processes, signals) with the other processes, and reports a failure; returns the exit status."""
    reporter.processes = Processes(launch)  # until the others have come
    with (
        Signals(reporter.stopped) as signals,
        join(launch, timeout_seconds=config.run.timeout_seconds, on_loss=reporter.lost) as processes,
    ):
        reporter.processes = processes
        try:
            work(processes, signals)
            return 0
        except PeerError as error:
            signals.ignore_more()
            if reporter.done:
                return 0
            failure = processes.watch.find_cause(str(error))
            reporter.lost(failure)
            return failure["exit_code"]
        except (Exception, StoppedError) as error:
            signals.ignore_more()
            return reporter.failed(_translated(error, config, reporter.directory))


@dataclass
class StatusReporter:
    """Writes status.json, once the directory is this run's own, and says on stderr what no other process says."""

    directory: Path
    processes: Processes | None = None
    owns: bool = False
    done: bool = False

    def __post_init__(self):
        self._status = status.Status(self.directory)

    def take_directory(self) -> None:
        """From here on the directory is this run's."""
        self.owns = True

    def running(self) -> None:
        if self.processes.first:
            self._status.running()
            (self.directory / TRACEBACK).unlink(missing_ok=True)  # of an attempt before

    def finished(self) -> None:
        """Nothing that fails from here on makes it another end."""
        if self.processes.first:
            self._status.finished()
        self.owns, self.done = False, True

    def stopped(self, exit_code: int, message: str = "stopped at once; the same command goes on") -> None:
        self._write(exit_code, message)

    def failed(self, error: BaseException) -> int:
        """Tells this process's own failure, or that of another one which failed first; its exit status."""
        ours = isinstance(error, (CilError, StoppedError))
        message = str(error) if ours else printable(f"{type(error).__name__}: {error}")
        if self.done:
            self.print_line(f"the run is finished; after that: {message}")
            return 0
        message += self._keep_traceback(error)
        failure = {"rank": self.processes.rank, "exit_code": getattr(error, "exit_status", 1), "message": message}
        if self.processes.watch:
            named = message if isinstance(error, StoppedError) else f"rank {self.processes.rank}: {message}"
            # several processes may fail for the same reason
            failure = self.processes.watch.report_failure(failure["exit_code"], named)
        if failure.get("lost"):
            self.lost(failure)
            return failure["exit_code"]
        self._write(failure["exit_code"], failure["message"])
        if failure["rank"] == self.processes.rank and ours:
            self.print_line(failure["message"])
        elif failure["rank"] == self.processes.rank:
            traceback.print_exception(error)
        return failure["exit_code"]

    def lost(self, failure: dict) -> None:
        """Tells the failure of another process; one of those that are left prints it if that one can't."""
        self._write(failure["exit_code"], failure["message"])
        if failure["lost"] and self.processes.rank == (1 if failure["rank"] == 0 else 0):
            self.print_line(failure["message"])

    def print_line(self, message: str) -> None:
        """Prints one line on stderr."""
        with suppress(OSError):  # nobody listens
            print(f"train.py: {message}", file=sys.stderr, flush=True)

    def _keep_traceback(self, error: BaseException) -> str:
        """Writes where a failure of the machine or of a user's own function came from into traceback.txt.

        Returns what the message says about that file; "" if none is written.
        """
        if not (self.owns and isinstance(error, MachineError | OwnCodeError) and error.__cause__):
            return ""
        path, lines = self.directory / TRACEBACK, traceback.format_exception(error.__cause__)
        try:
            files.write_text(path, "".join(lines).encode("utf-8", "backslashreplace").decode())
        except (DiskError, MemoryError):
            return ""
        return printable(f" (details: {path})")

    def _write(self, exit_code: int, message: str) -> None:
        if self.owns:
            with suppress(DiskError):  # the failure itself may be a full disk
                (self._status.stopped if exit_code > 128 else self._status.failed)(exit_code, message)


def _translated(error: BaseException, config: Config, directory: Path) -> BaseException:
    """One line in place of what the disk refused or the machine lacks; any other error as it is.

    What `files` writes raises a DiskError itself.
    """
    if isinstance(error, OSError) and error.errno in _DISK:
        name = error.filename or directory
        return DiskError(f"{name}: {error.strerror}; mend that, and the same command goes on")
    told = machine.explain(error, config)
    if told is None:
        return error
    told.__cause__ = error
    return told


def _run(
    config: Config,
    directory: Path,
    processes: Processes,
    signals: Signals,
    reporter: StatusReporter,
    warnings: Sequence[str],
) -> None:
    begun = read_directory(config, directory, processes, on_owned=reporter.take_directory)
    if begun.finished:
        if processes.first:
            with processes.activity.long_work("reading the data", at_most_seconds=math.inf):
                _show_finished(begun, directory, reporter)
        processes.wait_for_all("finished")
        return
    if not begun.moved_from:
        reporter.running()
    ready = setup.build(begun.config, processes)
    held = begun.checkpoint
    if held:
        same_images.refuse_changed_images(ready.fingerprint, held.record["data"], moved_from=begun.moved_from)
    if begun.moved_from:  # only now it is known that the directory holds this run
        reporter.take_directory()
        reporter.running()
    with recorder(directory, ready, held, warnings=warnings) as record:
        for problem in begun.problems:
            record.emit({"event": "warning", "message": problem})
        _train(ready, directory, held, signals, record)
        reporter.finished()
        if processes.first:
            _report(directory, record.emit)


def _show_finished(begun: FoundRun, directory: Path, reporter: StatusReporter) -> None:
    """Prints the table of a finished run, then a warning if its images have changed since."""
    results = json.loads((directory / "results.json").read_text(encoding="utf-8"))
    print(f"{directory} holds this run, finished", tables.phase_table(results), sep="\n\n", flush=True)
    changed = same_images.warning_if_changed(begun.config, directory, results, moved_from=begun.moved_from)
    if changed:
        reporter.print_line(f"warning: {changed}")


def _train(
    ready: setup.Setup, directory: Path, held: checkpoints.Loaded | None, signals: Signals, record: Recorder
) -> None:
    """Learns what is left to learn, and writes what a finished run leaves."""
    planning.check(ready.experiment)
    progress = [_start(ready, directory, held, record.emit)]  # in a list, which gives it up to the phase loop
    saver = CheckpointSaver(
        directory / "checkpoints",
        ready.processes,
        signals,
        every_seconds=ready.config.checkpoint.every_seconds,
        number=held.number + 1 if held else 0,
        begun=progress[0] if held else None,
        extra=lambda: {"log_bytes": record.log_bytes(), "data": ready.fingerprint},
        warn=lambda message: record.emit({"event": "warning", "message": message}),
    )
    with saver:
        try:
            with runners.reported(record.emit):
                done, results = experiment.run(
                    ready.experiment, emit=record.emit, save=record.save, progress=progress.pop(), hook=saver
                )
                saved = saved_model.of_run(ready, done)
            saver.wait()
            if ready.processes.first:
                _write_end(directory, saved, results, record)
        except (StoppedError, PeerError):
            saver.save_after_failure()
            raise


def _start(
    ready: setup.Setup, directory: Path, held: checkpoints.Loaded | None, emit: Callable[[dict], None]
) -> Progress:
    """Where the run begins or goes on, and says so; empties `held`, for a large tree is not to be kept twice."""
    progress = progressing.unpack(held.tree, held.record, device=ready.experiment.device) if held else Progress()
    started = planning.run_start(ready) | {"directory": printable(str(directory))}
    if held:
        held.tree.clear()
        at = dict(zip(("phase", "stage", "epoch", "step"), progress.place, strict=True))
        emit(started | {"event": "resume"} | at | {"selected": progress.selected})
        return progress
    emit(started)
    for message in (*planning.warnings(ready), *data_warnings(ready)):  # a run that goes on has them in its log
        emit({"event": "warning", "message": printable(message)})
    return progress


def _write_end(directory: Path, saved: checkpoints.SavedModel, results: dict, record: Recorder) -> None:
    record.save(results)
    checkpoints.save_model(directory, saved)
    keys = ("average_incremental_accuracy", "last_accuracy", "forgetting")
    seconds = sum(sum(row["seconds"].values()) for row in results["phases"])
    record.emit({"event": "run_end", "seconds": seconds, **{key: results[key] for key in keys}})


def _report(directory: Path, emit: Callable[[dict], None]) -> None:
    """Draws report/, the last thing that a run does: the run is finished, and what fails here is a warning."""
    problems: list[str] = []
    try:
        report_files.write_report(directory, warn=problems.append)
    except (Exception, StoppedError) as error:
        problems.append(f"report/ is not drawn ({type(error).__name__}: {error})")
    again = f"the run is finished, and this draws it: python -m cil_func.report {directory}"
    for problem in problems:
        with suppress(DiskError):  # the disk may be why
            emit({"event": "warning", "message": printable(f"{problem}; {again}")})


def data_warnings(ready: setup.Setup) -> list[str]:
    """What a person should know of the images, one line each."""
    skipped = [f"{len(ready.skipped)} images are skipped, the first one {ready.skipped[0]}"] if ready.skipped else []
    return [*skipped, *ready.data_warnings]
