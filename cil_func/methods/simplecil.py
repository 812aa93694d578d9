"""SimpleCIL (Zhou et al. 2023, arXiv:2303.07338, section 4.1): prototypes of a frozen pretrained backbone.

    logit_c = cos(f, p_c),   p_c the mean feature of the training images of class c, un-augmented

As in the authors' code (PILOT) the mean is of features as they are, and nothing is trained. No image is kept, and the
order and number of phases change nothing.
"""

import torch
import torch.nn.functional as F

from cil_func.methods import frozen
from cil_func.methods.base import Method, Options
from cil_func.networks import fitted


def make(options: Options, *, first_phase: bool = False) -> Method:
    """Returns SimpleCIL. first_phase: whether phase 0 trains the backbone, see `frozen.make`; the paper's doesn't."""
    return frozen.make(
        "simplecil", options, fit, first_phase=first_phase, head=fitted.head(cosine), trainable=fitted.trainable
    )


def cosine(rows: torch.Tensor, shared: object, features: torch.Tensor) -> torch.Tensor:
    """Returns the cosines (B, K) of features (B, D) and rows (K, D); 0 where one of them is 0. shared: ignored."""
    return F.normalize(features, dim=1) @ F.normalize(rows, dim=1).T


def fit(params, extra, features, labels, classes, key):
    """Returns (params, extra) with the new classes' prototypes, see `methods.extra.Fit`."""
    means, rows = frozen.means_of(features, labels), params["classifier"]["fitted"]
    prototypes = torch.cat([rows[: len(rows) - len(means)], means.to(rows)])       # (K, D)
    return fitted.filled(params, prototypes), extra
