"""RanPAC (McDonnell et al. 2023, arXiv:2307.02251): a fixed random projection of frozen features, and ridge regression.

    h = relu(f W), W (D, M) of N(0, 1);   G = sum h h',  Q = sum h y';   rows = (G + r I)^-1 Q     (equations 5 to 7)

y: one-hot. The sums are remembered, so that the rows are those of all classes at once, whatever the phases. r is the
one of 1e-8, 1e-7, ..., 1e8 whose rows, fitted on the first 80 % of each class's images, have the least squared error on
the last 20 %. In the authors' code these are the newest phase's alone; here the sums of both parts are kept over all
phases, so that r too depends on no order. No image is kept; the sums are 32 M^2 bytes of checkpoint and model.
"""

import torch

from cil_func import rng
from cil_func.methods import frozen
from cil_func.methods.base import Method, Options
from cil_func.methods.ranges import Count
from cil_func.networks import fitted

RIDGES = tuple(10.0**power for power in range(-8, 9))
_SHARE = 0.8  # of a class's images, for the fit by which r is chosen
_AT_ONCE = 4096  # images whose projections are in memory at a time


def make(options: Options, *, width: Count = 2000, first_phase: bool = True) -> Method:
    """Returns RanPAC, without the adapters that the paper trains in phase 0.

    width: M, 10,000 in the paper. first_phase: whether phase 0 trains the backbone instead, see `frozen.make`.
    """

    def start(params):
        rows = params["classifier"]["fitted"]                                      # (C, M)
        zeros = torch.zeros(2, width, width, dtype=torch.float64, device=rows.device)
        return {"gram": zeros, "classifier": {"products": zeros.new_zeros(len(rows), 2, width)}}

    def shared(key, feature_dim, num_classes, num_phases):
        return {"projection": torch.randn(feature_dim, width, generator=rng.generator(key))}

    return frozen.make(
        "ranpac", options, fit, first_phase=first_phase, start=start, trainable=fitted.trainable,
        head=fitted.head(lambda rows, shared, f: project(shared, f) @ rows.T, width=width, shared=shared),
    )  # fmt: skip


def project(shared, features: torch.Tensor) -> torch.Tensor:
    """Returns relu(features W): (N, M). features: (N, D)."""
    return torch.relu(features @ shared["projection"])


def fit(params, extra, features, labels, classes, key):
    """Returns (params, extra) with the sums that have the new images too, and all rows, see `methods.extra.Fit`."""
    gram, products = extra["gram"].clone(), extra["classifier"]["products"].clone()
    shared, place = {"projection": params["head"]["projection"].double()}, gram.device
    for label in labels.unique().tolist():
        own = features[labels == label]
        cut = int(_SHARE * len(own))
        for part, images in enumerate((own[:cut], own[cut:])):
            for some in images.split(_AT_ONCE):
                h = project(shared, some.to(place).double())                       # (N, M)
                gram[part] += h.T @ h
                products[label, part] += h.sum(0)
    known = products[: len(params["classifier"]["bias"])]                          # (K, 2, M)
    rows = solve(gram.sum(0), known.sum(1), choose(gram, known))
    return fitted.filled(params, rows), {"gram": gram, "classifier": {"products": products}}


def choose(gram: torch.Tensor, products: torch.Tensor) -> float:
    """Returns r. gram: (2, M, M), of the images to fit and of those held out. products: (K, 2, M)."""

    def error(ridge: float) -> float:  # without the sum of the squares of y, which is the same for all
        rows = solve(gram[0], products[:, 0], ridge)
        return float(((rows @ gram[1]) * rows).sum() - 2 * (rows * products[:, 1]).sum())

    errors = {ridge: error(ridge) for ridge in RIDGES}
    return min((ridge for ridge in RIDGES if errors[ridge] == errors[ridge]), key=errors.__getitem__)


def solve(gram: torch.Tensor, products: torch.Tensor, ridge: float) -> torch.Tensor:
    """Returns the rows (K, M) of ridge regression; NaN where gram + ridge I is singular in float64."""
    factor, fault = torch.linalg.cholesky_ex(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    return torch.cholesky_solve(products.T, factor).T if fault == 0 else torch.full_like(products, torch.nan)
