"""What turns features into logits: the linear classifier, or a method's own head."""

from dataclasses import dataclass
from typing import Protocol

import torch

from cil_func import classifier
from cil_func.networks.outputs import Classes
from cil_func.tree import Tree


class InitRows(Protocol):
    """(key, feature_dim, num_new) -> rows of num_new classes: a tree of leaves (num_new, ...). key: a seed."""

    def __call__(self, key: int, feature_dim: int, num_new: int, /) -> Tree: ...


class ExpandRows(Protocol):
    """(rows, key, num_new) -> rows of num_new classes more, appended at the end; the old ones are bit-identical.

    rows: the head's parameters that belong to a class, a tree of leaves (K, ...), see `InitRows`. key: an int seed, for
    the new ones.
    """

    def __call__(self, rows: Tree, key: int, num_new: int, /) -> Tree: ...


class InitShared(Protocol):
    """(key, feature_dim, num_classes, num_phases) -> a tree of parameters that belong to no class; {}: there are none.

    key: an int seed. num_classes, num_phases: of the whole run. The shapes are the same in all phases.
    """

    def __call__(self, key: int, feature_dim: int, num_classes: int, num_phases: int, /) -> Tree: ...


class RenewShared(Protocol):
    """(shared, key) -> the shared parameters that a later phase starts from, given those of the last phase."""

    def __call__(self, shared: Tree, key: int, /) -> Tree: ...


class BeginPhase(Protocol):
    """(params, num_new, phase, key) -> params that a phase > 0 starts from. With `Method.restart` it isn't called.

    params: the last phase's, grown, without frozen backbones; the last num_new rows are the phase's. key: an int seed.
    """

    def __call__(self, params: Tree, num_new: int, phase: int, key: int, /) -> Tree: ...


class ApplyHead(Protocol):
    """(rows, shared, features (B, D), classes) -> (logits (B, K), aux).

    K: the classes of `rows`: those seen, or in training all C of the run. aux: tensors by name, each (B, ...), that a
    loss gets as `Outputs.aux`; {}: none.
    """

    def __call__(
        self, rows: Tree, shared: Tree, features: torch.Tensor, classes: Classes, /
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]: ...


class OfMaps(Protocol):
    """(rows, shared, aux) -> aux: what a loss needs of the taps' tensors and the head's parameters together."""

    def __call__(self, rows: Tree, shared: Tree, aux: dict[str, torch.Tensor], /) -> dict[str, torch.Tensor]: ...


@dataclass(frozen=True)
class Head:
    """What turns features into logits. The default is the linear classifier of `cil_func.classifier`.

    init, expand: make the rows of the first classes, and add those of a later phase's. Training pads the rows with
    zeros to the run's C classes. shared, renew: make the parameters that belong to no class, and those of a later
    phase. apply: computes the logits. maps: turns what the taps return into what a loss is given; None: nothing.
    """

    init: InitRows = classifier.init
    expand: ExpandRows = classifier.expand
    shared: InitShared = lambda key, feature_dim, num_classes, num_phases: {}
    renew: RenewShared = lambda shared, key: shared
    apply: ApplyHead = lambda rows, shared, features, classes: (classifier.apply(rows, features), {})
    maps: OfMaps | None = None


LINEAR = Head()


class SetRows(Protocol):
    """(rows, features (N, D), labels (N,), key) -> rows, those of the labels set by their features. key: a seed."""

    def __call__(self, rows: Tree, features: torch.Tensor, labels: torch.Tensor, key: int, /) -> Tree: ...


def of_rows(set_rows: SetRows):
    """Returns the `methods.base.Imprint` that sets the classifier's rows, and nothing else, by `set_rows`."""

    def imprint(params: Tree, features: torch.Tensor, labels: torch.Tensor, classes: Classes, key: int) -> Tree:
        return {**params, "classifier": set_rows(params["classifier"], features, labels, key)}

    return imprint
