"""Where a run stands: everything that it needs to go on, as one value, and as the tree and the record on disk."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from cil_func import tree
from cil_func.training.epochs import Position
from cil_func.training.step import Health, Measures, TrainState

Model = tuple[tree.Tree, tree.Tree]


class Training(NamedTuple):
    """A phase in the middle of its training: totals are the running epoch's measures so far."""

    train_state: TrainState
    totals: Measures
    position: Position
    seconds: float  # that the training took so far


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    phase: the one that is next, or in training.
    learned: the last phase's finished model.
    exemplars: {label: rows of the training set}; this phase's own ones are among them once they are selected.
    rows: of results.json.
    training: None between two phases.
    select_seconds: what the selection of this phase's exemplars took; None until it is done.
    """

    phase: int = 0
    learned: Model | None = None
    exemplars: dict[int, torch.Tensor] = field(default_factory=dict)
    rows: tuple[dict, ...] = ()
    training: Training | None = None
    select_seconds: float | None = None

    @property
    def place(self) -> tuple[int, int, int]:
        """(phase, epoch, step); epoch -1 before the training."""
        return (self.phase, *(self.training.position if self.training else (-1, 0)))

    @property
    def selected(self) -> bool:
        """Whether the phase's exemplars are selected: this tells two progresses of one place apart."""
        return self.select_seconds is not None

    def __str__(self) -> str:
        """The place in words: "phase 1, epoch 3, step 0, exemplars selected", or "phase 2" before its training."""
        words = "phase {}, epoch {}, step {}".format(*self.place) if self.training else f"phase {self.phase}"
        return f"{words}, exemplars selected" if self.selected else words


class Keep:
    """What a training calls so that it can be saved and stopped.

    This one does neither; `runs.saver.CheckpointSaver` does both.
    """

    def __call__(self, make: Callable[[], Progress], boundary: bool) -> None:
        """Called before each step and, as a boundary, after each part of a phase. make() is the progress then."""

    def pause(self, make: Callable[[], Progress]) -> None:
        """Called before work that may take long and changes nothing. make() is the progress before it and after it."""

    def changing(self) -> None:
        """Called just before a step changes what the last `make` reads."""


def pack(progress: Progress) -> tuple[tree.Tree, dict]:
    """(tree of tensors, JSON-able record); the inverse of `unpack`."""
    parts: tree.Tree = {"exemplars": {str(label): rows for label, rows in progress.exemplars.items()}}
    record = {"phase": progress.phase, "rows": list(progress.rows), "training": None}
    record["select_seconds"] = progress.select_seconds
    if progress.learned:
        parts["learned"] = dict(zip(("params", "state"), progress.learned, strict=True))
    if progress.training:
        train_state, totals, position, seconds = progress.training
        named = {**train_state._asdict(), "health": train_state.health._asdict()}
        parts["training"] = {**named, "totals": totals._asdict()}
        record["training"] = {"epoch": position.epoch, "step": position.step, "seconds": seconds}
    return parts, record


def unpack(parts: tree.Tree, record: dict, *, device: torch.device) -> Progress:
    """The progress that `pack` wrote, its models on the device."""
    exemplars = {int(label): rows for label, rows in parts["exemplars"].items()}
    parts = tree.cast({key: part for key, part in parts.items() if key != "exemplars"}, device=device)
    learned, training = parts.get("learned"), parts.get("training")
    at = record["training"]
    return Progress(
        phase=record["phase"],
        learned=(learned["params"], learned["state"]) if learned else None,
        exemplars=exemplars,
        rows=tuple(record["rows"]),
        training=None if at is None else _training(training, at),
        select_seconds=record.get("select_seconds"),  # earlier versions had none
    )


def _training(part: tree.Tree, at: dict) -> Training:
    train_state = TrainState(part["params"], part["state"], part["opt_state"], Health(**part["health"]))
    return Training(train_state, Measures(**part["totals"]), Position(at["epoch"], at["step"]), at["seconds"])
