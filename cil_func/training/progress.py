"""Where a run stands: everything that it needs to go on, as one value, and as the tree and the record on disk."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

import torch

from cil_func import tree
from cil_func.methods.extra import without_logits
from cil_func.networks.network import Model
from cil_func.training.epochs import Position
from cil_func.training.step_state import Health, Measures, TrainState


@dataclass(frozen=True)
class StageProgress:
    """Where the training of a stage stands.

    train_state: after the last step.
    totals: the sums of the measures of the epoch's steps so far.
    position: the epoch and the step that is next.
    seconds: how long the phase's training took so far, earlier stages included.
    number: of the stage in its phase, 0, 1, ...
    chosen: for a stage on "balanced" rows, {label: rows} of the new classes, selected by the model that the stage
    begins with; else {}.
    before: for a stage that is taught by the model it began with, that model, its classifier padded to the run's C
    classes; else None.
    """

    train_state: TrainState
    totals: Measures
    position: Position = Position(0, 0)  # noqa: RUF009 (a tuple)
    seconds: float = 0.0
    number: int = 0
    chosen: dict[int, torch.Tensor] = field(default_factory=dict)
    before: Model | None = None


@dataclass(frozen=True)
class Progress:
    """Where a run stands: everything that it needs to go on.

    phase: the one that is next, or in training.
    learned: the last phase's finished model; None in phase 0.
    exemplars: {label: int64 rows of the training set, in order of rank}; those of this phase's classes are among them
    once they are selected.
    rows: the finished phases' rows of results.json.
    training: of the stage that is next or done; None between two phases.
    select_seconds: what the selection of this phase's exemplars took; None until it is done.
    extra: what the method remembers (`methods.extra.Extra`), {} if it remembers nothing. During a phase's training it
    is what the training began with; `remembered` is what it stands at.
    """

    phase: int = 0
    learned: Model | None = None
    exemplars: dict[int, torch.Tensor] = field(default_factory=dict)
    rows: tuple[dict, ...] = ()
    training: StageProgress | None = None
    select_seconds: float | None = None
    extra: tree.Tree = field(default_factory=dict)

    @property
    def stage(self) -> StageProgress:
        """`training`, where there is one: not between two phases."""
        assert self.training, f"{self} has no training"
        return self.training

    @property
    def remembered(self) -> tree.Tree:
        """What the method remembers now: `extra`, during a training with what the last step has made of it."""
        return {**self.extra, **self.training.train_state.extra} if self.training else self.extra

    @property
    def place(self) -> tuple[int, int, int, int]:
        """(phase, stage, epoch, step), each from 0; before the phase's training stage and epoch are -1, step is 0."""
        if self.training is None:
            return (self.phase, -1, -1, 0)
        return (self.phase, self.training.number, *self.training.position)

    @property
    def selected(self) -> bool:
        """Whether this phase's exemplars are selected: this distinguishes two progresses of one `place`."""
        return self.select_seconds is not None

    def __str__(self) -> str:
        """The place in words: "phase 1, epoch 3, step 0, exemplars selected", or "phase 2" before its training."""
        phase, stage, epoch, step = self.place
        words = f"phase {phase}" + (f", stage {stage}" if stage > 0 else "")
        words += f", epoch {epoch}, step {step}" if self.training else ""
        return f"{words}, exemplars selected" if self.selected else words


At = TypeVar("At")


class SaveHook(Generic[At]):
    """What a training calls so that it can be saved and stopped, of which this one does neither.

    `runs.saver.CheckpointSaver` does both. In each method make() returns the progress at the moment of the call: for a
    whole run a Progress, for one stage a StageProgress, which `StageHook` turns into the run's.
    """

    def at_border(self, make: Callable[[], At], boundary: bool) -> None:
        """Called before each step and, with boundary=True, after each part of a phase. May raise to stop the run."""

    def before_long_work(self, make: Callable[[], At]) -> None:
        """Called before work that may take long and changes nothing: make() returns the same before it and after it."""

    def before_change(self) -> None:
        """Called just before a step changes what the last `make` reads: from here on it must not be called any more."""


@dataclass(frozen=True)
class StageHook(SaveHook[StageProgress]):
    """Passes the progress of a stage on as the progress of the run that it is part of.

    hook: of the run. run: the run's progress, whose `training` is replaced by the stage's.
    """

    hook: SaveHook[Progress]
    run: Progress

    def at_border(self, make: Callable[[], StageProgress], boundary: bool) -> None:
        self.hook.at_border(lambda: replace(self.run, training=make()), boundary)

    def before_long_work(self, make: Callable[[], StageProgress]) -> None:
        self.hook.before_long_work(lambda: replace(self.run, training=make()))

    def before_change(self) -> None:
        self.hook.before_change()


def pack(progress: Progress) -> tuple[tree.Tree, dict]:
    """Returns the progress as (tree of tensors, record that JSON can hold), of which a checkpoint is made.

    `unpack` undoes it.
    """
    parts: tree.Tree = {"exemplars": _named(progress.exemplars)}
    record: dict = {"phase": progress.phase, "rows": list(progress.rows), "training": None}
    record["select_seconds"] = progress.select_seconds
    if progress.learned:
        parts["learned"] = progress.learned._asdict()
    if progress.remembered:
        parts["extra"] = progress.remembered
    if progress.training:
        training = progress.training
        named = training.train_state._asdict() | {"health": training.train_state.health._asdict()}
        del named["extra"]  # it is `remembered`
        shared = {key: _shared(named[key], progress.learned, key) for key in ("params", "state")}
        for key, paths in shared.items():
            if paths:  # frozen parts, which the last phase's model has
                named[key] = tree.partition(named[key], set(paths).__contains__)[1]
        parts["training"] = {**named, "totals": training.totals._asdict(), "chosen": _named(training.chosen)}
        if training.before:
            parts["training"]["before"] = training.before._asdict()
        record["training"] = {
            "stage": training.number, "epoch": training.position.epoch, "step": training.position.step,
            "seconds": training.seconds,
        }  # fmt: skip
        record["training"] |= {"shared": shared} if any(shared.values()) else {}
    return parts, record


def unpack(parts: tree.Tree, record: dict, *, device: torch.device) -> Progress:
    """Returns the progress that `pack` took apart.

    parts: the tree; record: the rest. device: where its models and train state are put; exemplars stay where they are.
    """
    at, training = record["training"], dict(parts.get("training", {}))
    chosen = _numbered(training.pop("chosen", {}))
    models = tree.cast(
        {"learned": parts.get("learned", {}), "extra": parts.get("extra", {}), "training": training}, device=device
    )
    return Progress(
        phase=record["phase"],
        learned=Model(**models["learned"]) if models["learned"] else None,
        exemplars=_numbered(parts["exemplars"]),
        rows=tuple(record["rows"]),
        training=None if at is None else _stage(models["training"], models["extra"], at, chosen, models["learned"]),
        select_seconds=record["select_seconds"],
        extra=models["extra"],
    )


def _shared(part: tree.Tree, learned: Model | None, key: str) -> list[str]:
    """Returns the paths of the leaves of a train state's part that are the very tensors of the last phase's model.

    Those are frozen parts; others were copied when the stage began. part: its params or state, as `key` says.
    """
    theirs = tree.to_paths(getattr(learned, key)) if learned else {}
    return [path for path, leaf in tree.to_paths(part).items() if leaf is theirs.get(path)]


def _stage(
    part: tree.Tree, extra: tree.Tree, at: dict, chosen: dict[int, torch.Tensor], learned: tree.Tree
) -> StageProgress:
    for key, paths in at.get("shared", {}).items():
        theirs = tree.to_paths(learned[key])
        own = {path: theirs[path] for path in paths}
        part = part | ({key: tree.from_paths({**own, **tree.to_paths(part.get(key, {}))})} if own else {})
    read, _ = without_logits(extra)
    train_state = TrainState(part["params"], part["state"], part["opt_state"], Health(**part["health"]), read)
    position, before = Position(at["epoch"], at["step"]), Model(**part["before"]) if "before" in part else None
    return StageProgress(train_state, Measures(**part["totals"]), position, at["seconds"], at["stage"], chosen, before)


def _named(rows: dict[int, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {str(label): kept for label, kept in rows.items()}


def _numbered(rows: dict[str, torch.Tensor]) -> dict[int, torch.Tensor]:
    return {int(label): kept for label, kept in rows.items()}
