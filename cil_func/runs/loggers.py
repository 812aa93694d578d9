"""Sends a run's events to the loggers that `run.loggers` names: TensorBoard, Weights & Biases.

Both are optional packages, imported only where a run uses them. They see the events of metrics.jsonl and nothing else.
The horizontal axis of every curve is the number of epochs trained so far, over all phases and their stages.
"""

import math
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeGuard

from cil_func.config import Config
from cil_func.errors import ConfigError, printable
from cil_func.runs import event_log

_CLOSING_SECONDS = 30.0  # how long the end of a run waits for a logger, which may wait for a network
_OF_EPOCH = ("loss", "train_top1", "learning_rate", "images_per_second", "gradient_norm", "weight_norm", "update_norm")
_NOT_OF_PHASE = ("phase", "time")
_OF_RUN = ("average_incremental_accuracy", "last_accuracy", "forgetting", "seconds")


class Logger(Protocol):
    """Where numbers go."""

    def write(self, values: Mapping[str, float], epochs: int) -> None:
        """Takes {name: number}, measured after so many epochs."""

    def close(self) -> None:
        """Writes what is left. Nothing is written afterwards."""


class Opened(NamedTuple):
    """What a logger is made from. directory: the run's. config: as tables. name: of the run, for a person.

    epochs: how many epochs an earlier part of the run has logged; 0 for a new run.
    """

    directory: Path
    config: Mapping[str, Any]
    name: str
    epochs: int


class Kind(NamedTuple):
    """A kind of logger. package: that it needs, by the name of pip and of import. make: opens it."""

    package: str
    make: Callable[[Opened], Logger]


class _TensorBoard:
    """Writes RUN/tensorboard/. A run that goes on writes one more file, which hides what came after its checkpoint."""

    def __init__(self, opened: Opened) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = opened.epochs + 1 if opened.epochs else None
        self._writer = SummaryWriter(str(opened.directory / "tensorboard"), purge_step=purge)

    def write(self, values: Mapping[str, float], epochs: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, epochs)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """Writes to Weights & Biases, by way of RUN/wandb/. RUN/wandb/id.txt holds the id by which a run goes on."""

    def __init__(self, opened: Opened) -> None:
        import wandb

        folder = opened.directory / "wandb"
        folder.mkdir(exist_ok=True)
        known = folder / "id.txt"
        if not known.exists():
            known.write_text(secrets.token_hex(4))
        self._run = wandb.init(
            dir=str(opened.directory),
            id=known.read_text().strip(),
            name=opened.name,
            config=dict(opened.config),
            resume="allow",
            settings=wandb.Settings(silent=True, console="off", disable_git=True),
        )
        self._run.define_metric("epochs", hidden=True)
        self._run.define_metric("*", step_metric="epochs")

    def write(self, values: Mapping[str, float], epochs: int) -> None:
        self._run.log({**values, "epochs": epochs})

    def close(self) -> None:
        self._run.finish()


KINDS = {"tensorboard": Kind("tensorboard", _TensorBoard), "wandb": Kind("wandb", _WandB)}


def check(config: Config) -> None:
    """Raises ConfigError if run.loggers names a logger whose package is not installed."""
    for name in config.run.loggers:
        package = KINDS[name].package
        spec = find_spec(package)
        if spec is None or spec.origin is None:  # without an origin: a folder of that name, such as W&B leaves
            raise ConfigError(
                f'run.loggers: "{name}" needs the package {package}, which is not installed; '
                f"pip install {package}, or take it out of the list"
            )


def values_of(event: Mapping[str, Any]) -> dict[str, float]:
    """Returns what a logger shows of an event: {"group/name": number}; {} for an event without numbers to show.

    Groups: train (a stage of a phase: train-STAGE), test or validation (between epochs), phase (its end), run (the
    end). A number that is not finite, or null in the event, is left out.
    """
    kind, stage = event.get("event"), event.get("stage")
    if kind == "epoch":
        group, found = f"train-{stage}" if stage else "train", {key: event.get(key) for key in _OF_EPOCH}
    elif kind == "evaluation":
        group, found = event.get("on", "test"), {"logits_top1": event.get("logits_top1")}
    elif kind == "phase_end":
        group, found = "phase", {key: value for key, value in event.items() if key not in _NOT_OF_PHASE}
    elif kind == "run_end":
        group, found = "run", {key: event.get(key) for key in _OF_RUN}
    else:
        return {}
    return {f"{group}/{key}": value for key, value in found.items() if _is_number(value)}


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


class Loggers:
    """Hands events to loggers, and never ends a run: a logger that fails is not used any more.

    Each method returns warnings for the log about such a failure, one line each; [] if there was none.
    """

    def __init__(self) -> None:
        self._open: dict[str, Logger] = {}
        self._epochs = 0

    def open(self, names: Sequence[str], directory: Path, config: Mapping[str, Any]) -> list[str]:
        """Opens the loggers of these names. If metrics.jsonl holds the beginning of the run, they go on after it.

        If it can't be read, none is opened, for it isn't known after how many epochs they would go on.
        """
        if not names:
            return []
        path = directory / "metrics.jsonl"
        try:
            for event in event_log.read(path) if path.exists() else []:
                self._count(event)
        except Exception as error:
            return [_failure(each, error) for each in names]
        name = str(directory.resolve().name)
        problems = []
        for each in names:
            try:
                self._open[each] = KINDS[each].make(Opened(directory, config, name, self._epochs))
            except Exception as error:
                problems.append(_failure(each, error))
        return problems

    def __call__(self, event: Mapping[str, Any]) -> list[str]:
        """Sends an event's numbers."""
        self._count(event)
        values, problems = values_of(event), []
        for name, logger in list(self._open.items()) if values else []:
            try:
                logger.write(values, self._epochs)
            except Exception as error:
                del self._open[name]
                problems.append(_failure(name, error))
        return problems

    def close(self) -> list[str]:
        """Closes all loggers, each within half a minute. A second call does nothing."""
        problems = []
        while self._open:
            name, logger = self._open.popitem()
            failed: list[Exception] = []
            thread = threading.Thread(target=_closed, args=(logger, failed), daemon=True)
            thread.start()
            thread.join(_CLOSING_SECONDS)
            if thread.is_alive():
                problems.append(f"run.loggers: {name} did not end within {_CLOSING_SECONDS:.0f} s; what it lacks is in "
                                "metrics.jsonl")  # fmt: skip
            problems += [_failure(name, error) for error in failed]
        return problems

    def _count(self, event: Mapping[str, Any]) -> None:
        self._epochs += event.get("event") == "epoch"


@contextmanager
def opened() -> Iterator[Loggers]:
    """Returns a context manager that yields Loggers, none of which is open, and closes those that are at the end."""
    loggers = Loggers()
    try:
        yield loggers
    finally:
        loggers.close()


def _closed(logger: Logger, failed: list[Exception]) -> None:
    try:
        logger.close()
    except Exception as error:
        failed.append(error)


def _failure(name: str, error: Exception) -> str:
    return printable(f"run.loggers: {name} gets no more of this run ({type(error).__name__}: {error})")
