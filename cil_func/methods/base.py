"""What a method is: a record of functions and numbers. Two methods differ in nothing else.

Everything but `name` and `loss` has a default, which is plain fine-tuning. `Method` is the whole method, `Stage` one
training of a phase, `Extra` what the method remembers between phases, `networks.head.Head` what turns features into
logits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import torch

from cil_func.networks.backbones import Taps
from cil_func.networks.head import LINEAR, Head
from cil_func.networks.outputs import Classes, Outputs
from cil_func.tree import Tree


class Targets(NamedTuple):
    """What a batch should be classified as.

    labels: (B,) integers; rows: (B,) bool, False for padding, or None if all rows are images.
    """

    labels: torch.Tensor
    rows: torch.Tensor | None = None


class Loss(Protocol):
    """(student, teacher, targets, classes) -> 0-d tensor, the mean over the batch's images.

    teacher: what the last phase's model says about the batch; None if the method uses none. In phase 0 there is no last
    model, and all its tensors are 0. They must not count then: `classes.old` is empty.
    """

    def __call__(
        self, student: Outputs, teacher: Outputs | None, targets: Targets, classes: Classes, /
    ) -> torch.Tensor: ...


class Penalty(Protocol):
    """(params, extra, classes) -> 0-d tensor. Its gradient is added to that of the loss at each step."""

    def __call__(self, params: Tree, extra: Tree, classes: Classes, /) -> torch.Tensor: ...


class Finish(Protocol):
    """(params, num_new) -> (params, gamma or None), after the training of a phase that has old classes."""

    def __call__(self, params: Tree, num_new: int, /) -> tuple[Tree, torch.Tensor | None]: ...


class Project(Protocol):
    """params -> params, after each update: back into the set of allowed weights."""

    def __call__(self, params: Tree, /) -> Tree: ...


class Trainable(Protocol):
    """path -> whether the parameter at this path of the tree is differentiated and updated."""

    def __call__(self, path: str, /) -> bool: ...


class FaultOf(Protocol):
    """sizes -> why phases that bring so many classes each can't be learned, and the way out; "" if they can be."""

    def __call__(self, sizes: Sequence[int], /) -> str: ...


def _unchanged(params: Tree) -> Tree:
    return params


def _no_fault(sizes: Sequence[int]) -> str:
    return ""


def _no_finish(params: Tree, num_new: int) -> tuple[Tree, None]:
    return params, None


def _everything(path: str) -> bool:
    return True


@dataclass(frozen=True)
class Options:
    """The numbers and choices of the [method] table. Which published recipe uses which: README."""

    temperature: float = 2.0
    kd_combination: Literal["convex", "sum"] = "convex"
    kd_weight: float | Literal["dynamic"] = "dynamic"
    clip_weights: bool = False
    align: bool = True
    label_smoothing: float = 0.0
    lwf_classes: Literal["new", "seen"] = "new"


@dataclass(frozen=True)
class Stage:
    """One training of a phase: a loss, the rows it trains on, what it changes.

    name: its numbers are those of [optim.NAME], or else `optim`, or else [optim]. "" is the training that each phase
    begins with.
    rows: "new": the phase's images and the exemplars, without those held out; "all": all images of all classes seen;
    "balanced": the exemplars, and as many images of each new class, chosen as exemplars are; "held_out": what
    `Method.hold_out` keeps from training.
    trainable: which parameters move. rows_trained: "new": the classifier's rows of old classes don't move, not even by
    weight decay.
    norm: "eval": batch norm uses its running statistics, which stay as they are.
    penalty: its gradient is added; it is not part of the reported loss.
    project: applied after each update. uses_teacher: whether the loss is given the last phase's model.
    clamp: largest absolute value of an entry of the loss's gradient; 0: no limit.
    optim: defaults of this stage's [optim] keys.
    """

    name: str
    loss: Loss
    rows: Literal["new", "all", "balanced", "held_out"] = "new"
    trainable: Trainable = _everything
    rows_trained: Literal["all", "new"] = "all"
    norm: Literal["train", "eval"] = "train"
    penalty: Penalty | None = None
    project: Project = _unchanged
    uses_teacher: bool = False
    clamp: float = 0.0
    optim: dict[str, Any] = field(default_factory=dict)


class Measure(Protocol):
    """(params, logits_of, labels) -> a tree of tensors, measured on a few images.

    logits_of(params) -> logits (B, C) of these images; labels: (B,).
    """

    def __call__(self, params: Tree, logits_of: Callable[[Tree], torch.Tensor], labels: torch.Tensor, /) -> Tree: ...


class Passes(Protocol):
    """Passes over a phase's new images, un-augmented, with the phase's finished model in eval mode."""

    def mean(self, measure: Measure, *, by: Literal["image", "batch"]) -> Tree:
        """The mean of `measure` over all images.

        by: "image": of one image at a time; "batch": of batches of the training's size, in random order and weighted by
        their images.
        """
        ...


@dataclass(frozen=True)
class Extra:
    """What a method remembers beside weights and exemplars: a tree of tensors, kept in checkpoints, constant in a step.

    start(params) -> tree, before phase 0. Here and below the classifier has the run's full width, 0 for unseen classes.
    after(extra, params, passes, classes) -> tree, after each phase.
    """

    start: Callable[[Tree], Tree]
    after: Callable[[Tree, Tree, Passes, Classes], Tree]


class Imprint(Protocol):
    """(rows, features (N, D), labels (N,), key) -> rows: new rows from the features of the new classes' images.

    Called once at the start of each later phase, with the features of the model that the phase begins with.
    """

    def __call__(self, rows: Tree, features: torch.Tensor, labels: torch.Tensor, key: int, /) -> Tree: ...


@dataclass(frozen=True)
class Method:
    """A method of class-incremental learning.

    loss, rows, trainable, rows_trained, penalty, project, uses_teacher, clamp: of a phase's training, as in `Stage`.
    finish: after the training of a phase that has old classes, its stages included.
    predict: by "logits" or by "nme", the nearest class mean.
    restart: whether a phase starts from a fresh initialisation.
    fault_of: says of the phases' sizes why they can't be learned.
    uses_memory: whether exemplars are kept.
    head, taps, final_relu: of the network. grow: "backbone": each phase trains a new backbone beside the earlier ones,
    which are frozen.
    extra: what is remembered; None: nothing. imprint: sets the new rows; None: they stay as drawn.
    stages: more trainings, which follow in phases that have old classes.
    hold_out: share of each old class's exemplars, and as many images of each new class, kept from training for stages.
    """

    name: str
    loss: Loss
    finish: Finish = _no_finish
    project: Project = _unchanged
    trainable: Trainable = _everything
    predict: Literal["logits", "nme"] = "logits"
    rows: Literal["new", "all"] = "new"
    restart: bool = False
    fault_of: FaultOf = _no_fault
    uses_memory: bool = False
    uses_teacher: bool = False
    rows_trained: Literal["all", "new"] = "all"
    penalty: Penalty | None = None
    clamp: float = 0.0
    head: Head = LINEAR
    taps: Taps | None = None
    final_relu: bool = True
    grow: Literal["rows", "backbone"] = "rows"
    extra: Extra | None = None
    imprint: Imprint | None = None
    stages: tuple[Stage, ...] = ()
    hold_out: float = 0.0

    @property
    def main(self) -> Stage:
        """The training that each phase begins with, as a stage."""
        return Stage(
            name="",
            loss=self.loss,
            rows=self.rows,
            trainable=self.trainable,
            rows_trained=self.rows_trained,
            penalty=self.penalty,
            project=self.project,
            uses_teacher=self.uses_teacher,
            clamp=self.clamp,
        )

    def stages_of(self, phase: int) -> tuple[Stage, ...]:
        """The trainings of phase `phase` (0, 1, ...), in order."""
        return (self.main, *self.stages) if phase else (self.main,)
