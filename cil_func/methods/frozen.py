"""What methods on a frozen backbone share: trained in phase 0 or never, then only the classifier's rows are computed.

The backbone is a pretrained one (model.weights), or the one that phase 0 has trained.
"""

from dataclasses import replace
from typing import Any, Literal

import torch

from cil_func.methods import finetune
from cil_func.methods.base import Method, Options
from cil_func.methods.extra import Extra, Fit, StartExtra


def make(
    name: str, options: Options, fit: Fit, *, first_phase: bool, start: StartExtra = lambda params: {}, **more: Any
) -> Method:
    """Returns a method that computes rows by `fit` after each phase.

    first_phase: whether phase 0 trains the backbone, by cross-entropy with a linear classifier. start: see `Extra`.
    more: other fields of `Method`.
    """
    trained: Literal["first", "never"] = "first" if first_phase else "never"
    return replace(finetune.make(options), name=name, trained=trained, extra=Extra(start, fit=fit), **more)


def means_of(features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns the mean feature of each class, (m, D) in float64. labels: (N,), of m consecutive classes."""
    places = labels - labels.min()
    sums = features.new_zeros(int(places.max()) + 1, features.shape[1], dtype=torch.float64)
    sums = sums.index_add(0, places, features.double())
    return sums / torch.bincount(places)[:, None]
