"""The functions that a method consists of, as types: what each is given and returns.

`methods.base` puts them together.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch

from cil_func.networks.outputs import Classes, Outputs
from cil_func.tree import Tree


class Targets(NamedTuple):
    """What a batch should be classified as.

    labels: (B,) int64, the classes; a row of padding has class 0.
    rows: (B,) bool, False for padding, which must not count in a loss; None: all rows are images.
    """

    labels: torch.Tensor
    rows: torch.Tensor | None = None


class Loss(Protocol):
    """(student, teacher, targets, classes) -> 0-d tensor, the mean over the batch's images.

    student: what the network says about the batch; its logits are (B, C), for all C classes of the run.
    teacher: what the teacher (`Stage.teacher`), by default the last phase's finished model, says about the same images;
    None if `Stage.uses_teacher` is false, unless each phase adds a backbone. Phase 0 has no last model: there all
    tensors of the teacher are 0, `classes.old` is nowhere true, and the loss must not depend on the teacher.
    """

    def __call__(
        self, student: Outputs, teacher: Outputs | None, targets: Targets, classes: Classes, /
    ) -> torch.Tensor: ...


class Penalty(Protocol):
    """(params, extra, classes) -> 0-d tensor, whose gradient is added to the loss's. extra: see `Extra`."""

    def __call__(self, params: Tree, extra: Tree, classes: Classes, /) -> torch.Tensor: ...


class Track(Protocol):
    """(extra, before, after, grads, classes) -> new extra, of the same shapes, called after each update.

    extra: what the method remembers, see `Extra`. before, after: all params, before and after the update.
    grads: a tree like them, the gradient of the loss by which they were updated: mean over the images of all processes,
    limited by `Stage.clamp`, without the penalty's, weight decay and momentum; 0 for parameters that aren't trained.
    """

    def __call__(self, extra: Tree, before: Tree, after: Tree, grads: Tree, classes: Classes, /) -> Tree: ...


class ReplayLoss(Protocol):
    """(student, stored, targets, classes, group) -> 0-d tensor, the mean over a group of replayed images.

    student: what the network says about them. stored: (B, C), the logits that were stored of them, or None, see
    `methods.base.Replay`. group: 0-d int64, the group's number; one compiled function serves all groups.
    """

    def __call__(
        self, student: Outputs, stored: torch.Tensor | None, targets: Targets, classes: Classes, group: torch.Tensor, /
    ) -> torch.Tensor: ...


class Combine(Protocol):
    """(gradient (V,), references (G, V)) -> the gradient that is used instead, (V,).

    gradient: of the loss, as one vector of all trained parameters. references: those of the replayed groups' losses; 0
    for a group without images. All are means over the images of all processes.
    """

    def __call__(self, gradient: torch.Tensor, references: torch.Tensor, /) -> torch.Tensor: ...


class Finish(Protocol):
    """(params, num_new) -> (new params, gamma), after the last training of a phase that has old classes.

    params: with a classifier of the K classes seen, the num_new newest last. gamma: the factor of their rows, a number
    or 0-d tensor, for the results; None: nothing was aligned.
    """

    def __call__(self, params: Tree, num_new: int, /) -> tuple[Tree, torch.Tensor | float | None]: ...


class Project(Protocol):
    """params -> new params, called after each update: puts the weights back into the set of those that are allowed."""

    def __call__(self, params: Tree, /) -> Tree: ...


class Trainable(Protocol):
    """path -> whether the parameter at this path, such as "classifier.weight", is differentiated and updated."""

    def __call__(self, path: str, /) -> bool: ...


class FaultOf(Protocol):
    """(sizes of the run's phases) -> why the method can't learn them, and the way out, as text; "" if it can.

    sizes: how many classes phase 0, 1, ... brings.
    """

    def __call__(self, sizes: Sequence[int], /) -> str: ...


class FaultOfMaps(Protocol):
    """count of feature maps that a backbone shows -> why the method can't use it, and the way out; "" if it can."""

    def __call__(self, count: int, /) -> str: ...


class Rectify(Protocol):
    """(logits (N, K), extra, classes) -> logits (N, K), by which a finished model predicts.

    extra: what the method remembers after the phase. classes: the phase's; on the CPU, as the others.
    """

    def __call__(self, logits: torch.Tensor, extra: Tree, classes: Classes, /) -> torch.Tensor: ...


class Imprint(Protocol):
    """(params, features (N, D), labels (N,), classes, key) -> params, the head's set by features.

    Called once at the start of each later phase, but not with `Method.restart`.
    params: with rows of the K classes seen, the new ones drawn at random.
    features: of the images that `Method.imprints` says, un-augmented, by the last phase's model; on the CPU, as labels,
    int64, and classes, the phase's. key: a seed.
    """

    def __call__(
        self, params: Tree, features: torch.Tensor, labels: torch.Tensor, classes: Classes, key: int, /
    ) -> Tree: ...
