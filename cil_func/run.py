"""One run and its directory: from a configuration to results, the saved model and a report; begun, or gone on with."""

import errno
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from cil_func import checkpoint, events, experiment, planning, same_images, setup
from cil_func import config as configuration
from cil_func import progress as progressing
from cil_func.config import Config
from cil_func.directory import Begun, begin, claimed
from cil_func.engine import distributed
from cil_func.engine.distributed import Launch, World
from cil_func.errors import CilError, DiskError, PeerError, StoppedError, printable
from cil_func.keeping import Keeper
from cil_func.progress import Progress
from cil_func.report import console, figures, tables
from cil_func.signals import Signals

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


def run(config: Config, directory: Path, launch: Launch | None = None, *, warnings: Sequence[str] = ()) -> int:
    """Trains, or goes on with what the directory holds; returns the exit status.

    The run directory is the contract's (README). launch: what the launcher says, None: one process. warnings: what a
    person was warned of before, for the log of a new run. A failure is in
    status.json, once the directory is known to be this run's, and one line on stderr (a bug: its traceback) by the
    process that failed; all processes return its exit status.
    """
    teller = Teller(directory)
    with (
        Signals(teller.stopped) as signals,
        distributed.join(
            launch or Launch(), timeout_seconds=config.run.timeout_seconds, on_loss=teller.lost
        ) as world,
    ):
        teller.world = world
        try:
            with claimed(directory, world):
                _run(config, directory, world, signals, teller, warnings)
            return 0
        except PeerError as error:
            signals.settle()
            failure = world.watch.blame(str(error))
            teller.lost(failure)
            return failure["exit_code"]
        except (Exception, StoppedError) as error:
            signals.settle()
            return teller.failed(_translated(error, directory))


def plan(config: Config) -> str:
    """What a run of this configuration would do, as text; builds everything, trains nothing."""
    ready = setup.build(config)
    return "\n".join([planning.describe(ready), *(f"warning: {message}" for message in data_warnings(ready))])


def profile(config: Config, directory: Path, steps: int) -> str:
    """Traces `steps` training steps into directory/trace.json; the report as text."""
    from cil_func import profiling  # late: torch's profiler costs a moment, and few runs want it

    return profiling.run(config, directory, steps)


@dataclass
class Teller:
    """Writes status.json, once the directory is this run's own, and says on stderr what no other process says."""

    directory: Path
    world: World | None = None
    owns: bool = False

    def __post_init__(self):
        self._status = events.Status(self.directory)

    def own(self) -> None:
        """From here on the directory is this run's."""
        self.owns = True

    def running(self) -> None:
        if self.world.first:
            self._status.running()

    def finished(self) -> None:
        if self.world.first:
            self._status.finished()

    def stopped(self, exit_code: int, message: str = "stopped at once; the same command goes on") -> None:
        self._write(exit_code, message)

    def failed(self, error: BaseException) -> int:
        """Tells this process's own failure, or that of another one which failed first; its exit status."""
        ours = isinstance(error, (CilError, StoppedError))
        message = str(error) if ours else printable(f"{type(error).__name__}: {error}")
        failure = {"rank": self.world.rank, "exit_code": getattr(error, "exit_status", 1), "message": message}
        if self.world.watch:
            named = message if isinstance(error, StoppedError) else f"rank {self.world.rank}: {message}"
            failure = self.world.watch.fail(failure["exit_code"], named)  # several may fail for the same reason
        self._write(failure["exit_code"], failure["message"])
        if failure["rank"] == self.world.rank and ours:
            self.say(failure["message"])
        elif failure["rank"] == self.world.rank:
            traceback.print_exception(error)
        return failure["exit_code"]

    def lost(self, failure: dict) -> None:
        """Tells the failure of another process; one of those that are left prints it if that one can't."""
        self._write(failure["exit_code"], failure["message"])
        if failure["lost"] and self.world.rank == (1 if failure["rank"] == 0 else 0):
            self.say(failure["message"])

    def say(self, message: str) -> None:
        """Prints one line on stderr."""
        with suppress(OSError):  # nobody listens
            print(f"train.py: {message}", file=sys.stderr, flush=True)

    def _write(self, exit_code: int, message: str) -> None:
        if self.owns:
            with suppress(DiskError):  # the failure itself may be a full disk
                (self._status.stopped if exit_code > 128 else self._status.failed)(exit_code, message)


def _translated(error: BaseException, directory: Path) -> BaseException:
    """A disk's refusal as the one line that it is: of what is not written by `events`, which says so itself."""
    if isinstance(error, OSError) and error.errno in _DISK:
        name = error.filename or directory
        return DiskError(f"{name}: {error.strerror}; mend that, and the same command goes on")
    return error


def _run(
    config: Config, directory: Path, world: World, signals: Signals, teller: Teller, warnings: Sequence[str]
) -> None:
    begun = begin(config, directory, world, ours=teller.own)
    if begun.finished:
        if world.first:
            _show_finished(begun, directory, teller)
        world.meet("finished")
        return
    if not begun.moved_from:
        teller.running()
    ready = setup.build(begun.config, world)
    held = checkpoint.unpack(begun.checkpoint) if begun.checkpoint else None
    if held:
        same_images.refuse_others(ready.fingerprint, held.record["data"], moved_from=begun.moved_from)
    if begun.moved_from:  # only now it is known that the directory holds this run
        teller.own()
        teller.running()
    signals.defer()
    with _recorders(directory, ready, held, warnings) as (emit, save):
        for problem in begun.problems:
            emit({"event": "warning", "message": problem})
        _train(ready, directory, held, signals, emit, save)
    teller.finished()


def _show_finished(begun: Begun, directory: Path, teller: Teller) -> None:
    """Prints the table of a finished run, then a warning if its images have changed since."""
    results = json.loads((directory / "results.json").read_text(encoding="utf-8"))
    print(f"{directory} holds this run, finished", tables.phase_table(results), sep="\n\n", flush=True)
    changed = same_images.changed_since(begun.config, directory, results, moved_from=begun.moved_from)
    if changed:
        teller.say(f"warning: {changed}")


@contextmanager
def _recorders(
    directory: Path, ready: setup.Setup, held: checkpoint.Loaded | None, warnings: Sequence[str]
) -> Iterator[tuple]:
    """(emit, save) of events and results; of several processes, only the first one's do anything.

    warnings: lines that are on the screen already; a new run has them in its log.
    """
    if not ready.world.first:
        yield (lambda event: None), (lambda results: None)
        return
    path = directory / "config.toml"
    if not path.exists() or configuration.load(str(path)) != ready.config:  # data.path may have changed
        events.write_text(path, configuration.to_toml(ready.config))
    log_path = directory / "metrics.jsonl"
    if log_path.exists():  # what came after the checkpoint comes again
        os.truncate(log_path, min(held.record["log_bytes"] if held else 0, log_path.stat().st_size))
    header = {
        "method": ready.method.name,
        "class_order": list(ready.scenario.class_order),
        "num_classes": ready.num_classes,
        "seed": ready.config.run.seed,
        "config": configuration.to_dict(ready.config),
        "skipped_images": ready.skipped,
        "data_warnings": ready.data_warnings,
        "data_fingerprint": ready.fingerprint,
        "data_stamp": ready.stamp,
    }
    environment = setup.environment(ready)

    def save(results: dict) -> None:
        events.write_json(directory / "results.json", header | results | {"environment": environment})

    with events.Log(log_path) as log, console.make() as show:
        for event in events.read(log_path):
            show.remember(event)
        for message in warnings if held is None else ():
            log({"event": "warning", "message": message})

        def emit(event: dict) -> None:
            log(event)
            with suppress(OSError):  # nobody reads the screen any more (`| head`), and the training goes on
                show(event)

        yield emit, save


def _train(
    ready: setup.Setup,
    directory: Path,
    held: checkpoint.Loaded | None,
    signals: Signals,
    emit: Callable[[dict], None],
    save: Callable[[dict], None],
) -> None:
    """Learns what is left to learn, and writes what a finished run leaves."""
    progress = progressing.unpack(held.tree, held.record, device=ready.device) if held else Progress()
    started = planning.run_start(ready) | {"directory": printable(str(directory))}
    at = dict(zip(("phase", "epoch", "step"), progress.place, strict=True))
    emit(started if held is None else started | {"event": "resume"} | at)
    if held is None:  # a run that goes on has them in its log
        for message in data_warnings(ready):
            emit({"event": "warning", "message": message})
    keeper = Keeper(
        directory / "checkpoints",
        ready.world,
        signals,
        every_seconds=ready.config.checkpoint.every_seconds,
        number=held.number + 1 if held else 0,
        extra=lambda: {"log_bytes": (directory / "metrics.jsonl").stat().st_size, "data": ready.fingerprint},
        warn=lambda message: emit({"event": "warning", "message": message}),
    )
    (params, state), results = experiment.run(ready, emit=emit, save=save, progress=progress, keep=keeper)
    if ready.world.first:
        save(results)
        checkpoint.save_model(directory, params, state, _description(ready))
        figures.write(directory)
        keys = ("average_incremental_accuracy", "last_accuracy", "forgetting")
        seconds = sum(sum(row["seconds"].values()) for row in results["phases"])
        emit({"event": "run_end", "seconds": seconds, **{key: results[key] for key in keys}})


def data_warnings(ready: setup.Setup) -> list[str]:
    """What a person should know of the images, one line each."""
    skipped = [f"{len(ready.skipped)} images are skipped, the first one {ready.skipped[0]}"] if ready.skipped else []
    return [*skipped, *ready.data_warnings]


def _description(ready: setup.Setup) -> dict:
    """What model.json says: all that a prediction needs besides the tensors."""
    order, preprocess = ready.scenario.class_order, ready.preprocess
    return {
        "backbone": ready.config.model.backbone,
        "classes": [{"index": index, "name": ready.class_names[index]} for index in order],  # by row
        "preprocessing": {
            "image_size": list(ready.train_images.shape[1:3]),
            "mean": preprocess.mean.to(torch.float64).tolist(),
            "std": preprocess.std.to(torch.float64).tolist(),
        },
        "precision": ready.config.run.precision,
    }
