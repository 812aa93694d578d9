"""Runs, plans or profiles a configuration: what `train.py` calls. A run begins, or goes on from its checkpoint."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from cil_func import experiment
from cil_func.config import Config
from cil_func.errors import PeerError, StoppedError, printable
from cil_func.parallel.joining import join
from cil_func.parallel.launch import Launch
from cil_func.parallel.processes import Processes
from cil_func.report import tables
from cil_func.runs import (
    checkpoints,
    finishing,
    machine,
    moved_parent,
    output,
    own_code,
    parent,
    planned_seconds,
    planning,
    same_images,
    saved_model,
    setup,
)
from cil_func.runs.directory import FoundRun, claim_directory, lost_model, read_directory, refuse_another_run
from cil_func.runs.recording import Recorder, recorder
from cil_func.runs.saver import CheckpointSaver
from cil_func.runs.signals import Signals
from cil_func.runs.status_reporter import StatusReporter
from cil_func.training import progress as progressing
from cil_func.training import runners
from cil_func.training.progress import Progress


def run(config: Config, directory: Path, launch: Launch | None = None, *, warnings: Sequence[str] = ()) -> int:
    """Trains a run, or the rest of it if the directory holds its beginning. Returns the exit status.

    config: the configuration that the command asks for. directory: the run directory, made if it is missing; README
    lists its files. launch: the place of this process among several; None for a single process. warnings: lines that
    the screen has shown before; a new run has them in its log.
    If the directory holds this run, finished, its table is printed and nothing is trained.
    A failure is written to status.json, once the directory is known to hold this run, and not raised. The process that
    failed prints it as one line on stderr, a bug with its traceback. All processes return the same exit status.
    Raises PeerError only if the other processes don't come.
    """
    reporter = StatusReporter(directory)

    def work(processes: Processes, signals: Signals) -> None:
        with claim_directory(directory, processes):
            _run(config, directory, processes, signals, reporter, warnings)

    return _with_others(config, launch or Launch(), reporter, work)


def plan(config: Config, directory: Path, launch: Launch | None = None) -> int:
    """Prints what a run would do, and returns the exit status. Builds everything; trains and writes nothing.

    config, launch: as in `run`. directory: the run directory, which must not hold another run. All processes plan
    together, so that the plan is refused if the run would be. Failures are printed as in `run`, and not raised.
    """

    def work(processes: Processes, signals: Signals) -> None:
        if processes.first:
            refuse_another_run(config, directory)
        ready = setup.build(config, processes)
        text = planning.describe(ready)
        if processes.first:
            output.show(text, *(f"warning: {message}" for message in data_warnings(ready)))
        if processes.size == 1:
            output.show(*planned_seconds.of(ready))

    return _with_others(config, launch or Launch(), StatusReporter(directory), work)


def profile(config: Config, directory: Path, steps: int) -> int:
    """Traces `steps` training steps, prints the slowest operations, and returns the exit status.

    config: as in `run`. The trace is written to directory/trace.json. Failures are printed as in `run`, and not raised.
    """
    from cil_func.runs import profiling  # imported late: torch's profiler takes a moment, and few runs need it

    def work(processes: Processes, signals: Signals) -> None:
        output.show(profiling.run(config, directory, steps))

    return _with_others(config, Launch(), StatusReporter(directory), work)


def _with_others(
    config: Config, launch: Launch, reporter: StatusReporter, work: Callable[[Processes, Signals], None]
) -> int:
    """Joins the other processes, calls work(processes, signals) and reports a failure. Returns the exit status.

    work: returns nothing; all that it raises is reported by `reporter`. config: for the timeout and for advice.
    """
    reporter.processes = Processes(launch)  # until the others are found
    try:
        with (
            Signals(reporter.stopped) as signals,
            join(launch, timeout_seconds=config.run.timeout_seconds, on_loss=reporter.lost) as processes,
        ):
            reporter.processes = processes
            return _reported(config, reporter, signals, lambda: work(processes, signals))
    except StoppedError as error:  # while it waited for the others
        return reporter.failed(error)


def _reported(config: Config, reporter: StatusReporter, signals: Signals, work: Callable[[], None]) -> int:
    """Calls work() and reports a failure, after which signals do nothing. Returns the exit status."""
    try:
        work()
        return 0
    except PeerError as error:
        signals.ignore_more()
        if reporter.done:
            return 0
        assert reporter.processes.watch, "a single process has no peers"
        failure = reporter.processes.watch.find_cause(str(error))
        reporter.lost(failure)
        return failure["exit_code"]
    except (Exception, StoppedError) as error:
        signals.ignore_more()
        return reporter.failed(machine.as_one_line(error, config, reporter.directory))


def _run(
    config: Config,
    directory: Path,
    processes: Processes,
    signals: Signals,
    reporter: StatusReporter,
    warnings: Sequence[str],
) -> None:
    """Does what is left to do for the run in a directory that this process has claimed; arguments as in `run`.

    reporter: writes status.json, from the moment when the directory is known to hold this run.
    """
    found = read_directory(config, directory, processes, on_owned=reporter.take_directory)
    if found.finished:
        if processes.first:
            with processes.activity.long_work("reading the data", at_most_seconds=math.inf):
                _show_finished(found, directory, reporter)
        processes.wait_for_all("finished")
        return
    if not found.moved_from:
        reporter.running()
    loaded = found.checkpoint
    ready = setup.build(found.config, processes, loaded and loaded.record)
    if loaded:
        same_images.refuse_changed_images(ready.fingerprint, loaded.record["data"], moved_from=found.moved_from)
    if found.moved_from:  # only now the images have shown that the directory holds this run
        reporter.take_directory()
        reporter.running()
    with recorder(directory, ready, loaded, warnings=warnings) as record:
        for problem in found.problems:
            record.emit({"event": "warning", "message": problem})
        _train(ready, directory, loaded, signals, record)
        reporter.finished()
        if processes.first:
            finishing.draw_report(directory, record.emit)


def _show_finished(found: FoundRun, directory: Path, reporter: StatusReporter) -> None:
    """Prints the table of a finished run, and a warning if its images have changed since or its model is gone.

    found: what `read_directory` found. Raises what `same_images.warning_if_changed` raises if data.path is another one.
    """
    results = json.loads((directory / "results.json").read_text(encoding="utf-8"))
    output.show(f"{directory} holds this run, finished", "", tables.phase_table(results))
    for place in own_code.changed(results.get("own_code", {})):
        reporter.print_line(f"warning: {place} has changed since this run; another --out trains by it as it is now")
    if changed := same_images.warning_if_changed(found.config, directory, results, moved_from=found.moved_from):
        reporter.print_line(f"warning: {changed}")
    if lost := lost_model(directory):
        reporter.print_line(lost)


def _train(
    ready: setup.Setup, directory: Path, loaded: checkpoints.Loaded | None, signals: Signals, record: Recorder
) -> None:
    """Trains the phases that are left, saving checkpoints on the way, then writes results and model.

    loaded: the checkpoint to go on from, None to begin.
    Raises StoppedError if a signal came, after saving, and PeerError if another process was lost.
    """
    planning.check(ready)
    # In a list, from which it is taken: a reference kept here would keep a copy of the whole state in memory.
    progress = [_start(ready, directory, loaded, record.emit)]
    saver = CheckpointSaver(
        directory / "checkpoints", ready.processes, signals,
        every_seconds=ready.config.checkpoint.every_seconds,
        number=loaded.number + 1 if loaded else 0,
        begun=progress[0] if loaded else None,
        extra=lambda: {
            "log_bytes": record.log_bytes(), "data": ready.fingerprint, "device": ready.config.run.device,
            "own_code": own_code.digests(ready.config, loaded and loaded.record),
            **moved_parent.record(ready.extended), **ready.choice.record(),
        },
        warn=lambda message: record.emit({"event": "warning", "message": message}),
    )  # fmt: skip
    with saver:
        try:
            with runners.reported(record.emit):
                done, results = experiment.run(
                    ready.experiment, emit=record.emit, save=record.save, start=progress.pop, hook=saver
                )
                saved = saved_model.of_run(ready, done)
            saver.wait()
            if ready.processes.first:
                finishing.write(directory, ready, done, saved, results, record)
        except (StoppedError, PeerError):
            saver.save_after_failure()
            raise


def _start(
    ready: setup.Setup, directory: Path, loaded: checkpoints.Loaded | None, emit: Callable[[dict], None]
) -> Progress:
    """Returns the progress from which to train, and passes a "run_start" or "resume" event to `emit`.

    loaded: the checkpoint to go on from, None to begin. Its tree is emptied, so that a large state is not in memory
    twice.
    """
    device = ready.experiment.device
    if loaded:
        progress = progressing.unpack(loaded.tree, loaded.record, device=device)
    elif ready.extended:
        progress = parent.progress(ready.extended, ready.experiment, dict(ready.held_out))
    else:
        progress = Progress()
    started = planning.run_start(ready) | {"directory": printable(str(directory))}
    if loaded:
        loaded.tree.clear()
        at = dict(zip(("phase", "stage", "epoch", "step"), progress.place, strict=True))
        emit(started | {"event": "resume"} | at | {"selected": progress.selected})
        return progress
    emit(started)
    for message in (*planning.warnings(ready), *data_warnings(ready)):  # a run that goes on has them in its log
        emit({"event": "warning", "message": printable(message)})
    return progress


def data_warnings(ready: setup.Setup) -> list[str]:
    """Returns what a person should know about the images of a run, skipped files included, one line each."""
    skipped = [f"{len(ready.skipped)} images are skipped, the first one {ready.skipped[0]}"] if ready.skipped else []
    return [*skipped, *ready.data_warnings]
