"""A head that is linear while the backbone is trained, and whose logits are then of rows computed from features.

    rows = {"weight": (K, D), "bias": (K,), "fitted": (K, M)}, shared = {"fitted": (), ...}

shared["fitted"] is 0 until a method has computed the rows "fitted", and 1 from then on. Neither is trained.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F

from cil_func import classifier
from cil_func.networks.head import Head, InitShared
from cil_func.tree import Tree


class Logits(Protocol):
    """(rows (K, M), shared, features (B, D)) -> logits (B, K)."""

    def __call__(self, rows: torch.Tensor, shared: Tree, features: torch.Tensor, /) -> torch.Tensor: ...


def trainable(path: str) -> bool:
    """Returns whether a parameter is trained: all are but those of this head that are computed."""
    return not path.startswith(("head.", "classifier.fitted"))


@dataclass(frozen=True)
class _Rows:
    """Makes the rows. width: M; 0: the number of features."""

    width: int = 0
    names: tuple[str, ...] = field(default=("weight", "bias"))

    def init(self, key: int, feature_dim: int, num_new: int) -> Tree:
        drawn = classifier.init(key, feature_dim, num_new)
        return {**drawn, "fitted": torch.zeros(num_new, self.width or feature_dim)}

    def expand(self, rows: Tree, key: int, num_new: int) -> Tree:
        linear = classifier.expand({name: rows[name] for name in self.names}, key, num_new)
        return {**linear, "fitted": F.pad(rows["fitted"], (0, 0, 0, num_new))}


def head(
    logits: Logits, *, width: int = 0, shared: InitShared = lambda key, feature_dim, num_classes, num_phases: {}
) -> Head:
    """Returns the head.

    logits: of the rows "fitted". width: their length M; 0: the number of features. shared: more parameters that belong
    to no class, which are not trained.
    """
    rows = _Rows(width)

    def start(key: int, feature_dim: int, num_classes: int, num_phases: int) -> Tree:
        return {"fitted": torch.zeros(()), **shared(key, feature_dim, num_classes, num_phases)}

    def apply(params: Tree, shared: Tree, features: torch.Tensor, classes: object) -> tuple[torch.Tensor, dict]:
        linear = classifier.apply({name: params[name] for name in rows.names}, features)
        return torch.where(shared["fitted"] > 0, logits(params["fitted"], shared, features), linear), {}

    return Head(rows.init, rows.expand, start, apply=apply)


def filled(params: Tree, rows: torch.Tensor) -> Tree:
    """Returns params whose logits are those of `rows` (K, M) from now on. params: of a network with this head."""
    own, shared = params["classifier"], params["head"]
    return {
        **params,
        "classifier": {**own, "fitted": rows.to(own["fitted"])},
        "head": {**shared, "fitted": torch.ones_like(shared["fitted"])},
    }
