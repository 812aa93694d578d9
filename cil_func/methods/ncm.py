"""NCM, the nearest class mean of a frozen backbone (Mensink et al. 2013, IEEE TPAMI 35(11), section 3).

    argmin_c |f - mu_c|^2 = argmax_c mu_c . f - |mu_c|^2 / 2

so the rule is a linear classifier with weight mu_c and bias -|mu_c|^2 / 2. mu_c: the mean feature of all training
images of class c, un-augmented. A class's row depends on its own images alone: the order and number of phases change
nothing. No image is kept.
"""

import torch

from cil_func.methods import frozen
from cil_func.methods.base import Method, Options


def make(options: Options, *, first_phase: bool = True) -> Method:
    """Returns the nearest class mean. first_phase: whether phase 0 trains the backbone, see `frozen.make`."""
    return frozen.make("ncm", options, fit, first_phase=first_phase)


def fit(params, extra, features, labels, classes, key):
    """Returns (params, extra) with the new classes' rows set to their means, see `methods.extra.Fit`."""
    means = frozen.means_of(features, labels)                                      # (m, D)
    new = {"weight": means, "bias": -means.square().sum(1) / 2}
    rows = {
        name: torch.cat([leaf[: len(leaf) - len(means)], new[name].to(leaf)])
        for name, leaf in params["classifier"].items()
    }
    return {**params, "classifier": rows}, extra
