"""What a method remembers beside weights and exemplars, and how it is measured on a phase's images."""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from cil_func.networks.outputs import Classes
from cil_func.tree import Tree

LOGITS = "logits"  # the part of what is remembered that no step reads: of exemplars, see `training.memory_pools`


def without_logits(extra: Tree) -> tuple[Tree, Tree]:
    """Returns (what a method's own functions get of what is remembered, {LOGITS: ...} or {})."""
    return {name: part for name, part in extra.items() if name != LOGITS}, {
        name: part for name, part in extra.items() if name == LOGITS
    }


class LogitsOf(Protocol):
    """params -> logits (B, C) of some images, which can be differentiated."""

    def __call__(self, params: Tree, /) -> torch.Tensor: ...


class Measure(Protocol):
    """(params, logits_of, labels) -> a tree of tensors, measured on one batch of B images; the mean over them.

    logits_of: gives the logits of these images. labels: (B,) int64.
    """

    def __call__(self, params: Tree, logits_of: LogitsOf, labels: torch.Tensor, /) -> Tree: ...


class Passes(Protocol):
    """Passes over a phase's images, un-augmented, with the phase's finished model in eval mode."""

    def mean(
        self, measure: Measure, *, by: Literal["image", "batch"], of: Literal["new", "exemplars"] = "new"
    ) -> Tree:
        """Returns the mean of `measure` over all images, a tree like what `measure` returns.

        of: "new": the phase's images. "exemplars": those kept of old classes; where there are none, all is 0.
        by: "image": measured on one image at a time; "batch": on batches of the training's size, in random order, each
        result weighted by its number of images.
        """
        ...


class StartExtra(Protocol):
    """params -> what is remembered before phase 0.

    In params the classifier has a row for each of the run's C classes, rows of unseen classes are zero.
    """

    def __call__(self, params: Tree, /) -> Tree: ...


class BeginExtra(Protocol):
    """(extra, params, classes) -> what is remembered while a phase trains.

    extra: what was remembered before it. params: those that the phase starts from, with the rows of its new classes,
    in the shapes of `StartExtra`'s. classes: the phase's.
    """

    def __call__(self, extra: Tree, params: Tree, classes: Classes, /) -> Tree: ...


def _same(extra: Tree, params: Tree, classes: Classes) -> Tree:
    return extra


class RenewExtra(Protocol):
    """(extra, params, passes, classes) -> what is remembered after a phase. params: as for `StartExtra`."""

    def __call__(self, extra: Tree, params: Tree, passes: Passes, classes: Classes, /) -> Tree: ...


class Fit(Protocol):
    """(params, extra, features (N, D), labels (N,), classes, key) -> (params, extra).

    Called once after the training of each phase, phase 0 included. It may set all that turns features into logits.
    params: with a classifier of the K classes seen, the new ones last. extra: what is remembered of earlier phases.
    features: of the phase's new images, un-augmented, by its model; on the CPU, as labels, int64, and classes. key: a
    seed. Several processes all call it with the same arguments, and have to get the same.
    """

    def __call__(
        self, params: Tree, extra: Tree, features: torch.Tensor, labels: torch.Tensor, classes: Classes, key: int, /
    ) -> tuple[Tree, Tree]: ...


def _unchanged(extra: Tree, params: Tree, passes: Passes, classes: Classes) -> Tree:
    return extra


@dataclass(frozen=True)
class Extra:
    """What a method remembers beside weights and exemplars: a tree of tensors, kept in checkpoints.

    start: gives it before phase 0. fit: computes the classifier's rows from features after each phase, and what is
    remembered of them; None: they stay as they were trained. after: gives what is remembered after each phase. begin:
    gives what is remembered while a phase trains, which a step only reads, unless its stage has a `methods.base.Track`.
    Each gives a dict. A part under the key "classifier" has the C classes of the run as the first axis of its tensors;
    the key "logits" is refused, since the logits of exemplars are stored under it.
    """

    start: StartExtra
    after: RenewExtra = _unchanged
    fit: Fit | None = None
    begin: BeginExtra = _same
