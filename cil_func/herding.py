"""Herding: which few images stand for a class once the others are gone.

A memory of 20 images should have the mean feature of all 500, since the nearest-mean prediction uses
that mean and replay trains on it. Herding picks greedily, so every prefix of its choice is a good memory
too: when quotas shrink, the last chosen go first. Runs eagerly, on the CPU, in float64: the choice must be
the same on every machine and rank, and it is a few matrix-vector products a class.
"""

import operator

import numpy as np
import torch

# Identical rows can get scores that differ in the last bits (BLAS sums a row by its place in a block), so
# "equal" means equal up to this much of the magnitudes that went into a score.
_TIE = 1e-12


def herd(features: torch.Tensor, count: int, *, normalize: bool = True) -> torch.Tensor:
    """Picks `count` rows, one after the other, whose mean follows the mean of all.

        p_k = argmin_i || mu - (f_i + sum_{j<k} f_{p_j}) / k ||,   mu = mean of all rows,   i not yet picked

    features: (N, D), any dtype and device; rows are L2-normalised first if `normalize` (a zero row stays
    zero), the mean is not. Returns (count,) int64 on the CPU, distinct, in order of selection: herd(f, m)
    is the start of herd(f, n). Ties go to the lowest row. Costs O(count * N * D).
    Raises ValueError if features are not 2-D or not finite, or count is below 0 or above N.
    Source: Rebuffi et al. 2017 (iCaRL, arXiv:1611.07725), algorithm 4; here without replacement.
    """
    rows = finite_rows("herd", features)
    num_rows, count = rows.shape[0], operator.index(count)
    if not 0 <= count <= num_rows:
        raise ValueError(f"herd: count={count} of {num_rows} rows; give 0 to {num_rows}")
    rows = unit_rows(rows) if normalize else _scale(rows, np.abs(rows).max(initial=0.0))
    # With k rows chosen whose sum is s, total the sum of all and r = (k + 1) total - N s, the norm is least
    # where 2 f_i . r - N ||f_i||^2 is largest. No division by N or k: integer features stay exact.
    squares = np.einsum("nd,nd->n", rows, rows)  # (N,)
    lengths = np.sqrt(squares)
    total, chosen_sum = rows.sum(axis=0), np.zeros(rows.shape[1])  # (D,)
    free = np.ones(num_rows, dtype=bool)
    chosen = np.empty(count, dtype=np.int64)
    for k in range(count):
        residual = (k + 1) * total - num_rows * chosen_sum  # (D,)
        scores = np.where(free, 2 * (rows @ residual) - num_rows * squares, -np.inf)  # (N,)
        best = scores.argmax()
        magnitude = (k + 1) * np.linalg.norm(total) + num_rows * np.linalg.norm(chosen_sum)
        slack = _TIE * (2 * lengths * magnitude + num_rows * squares)  # (N,)
        chosen[k] = pick = np.flatnonzero(scores + slack >= scores[best] - slack[best])[0]
        free[pick] = False
        chosen_sum = chosen_sum + rows[pick]
    return torch.from_numpy(chosen)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Each row divided by its L2 norm, (N, D) float64; zero rows stay zero, tiny and huge ones are exact."""
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)  # (N, 1)
    rows = _scale(rows, largest)  # or squares of tiny or huge rows would be 0 or infinite
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)  # (N, 1)
    return rows / np.where(lengths == 0, 1.0, lengths)


def finite_rows(function: str, features: torch.Tensor) -> np.ndarray:
    """Features as (N, D) float64 in numpy; raises ValueError, naming `function`, if not 2-D or not finite."""
    if features.ndim != 2:
        raise ValueError(f"{function}: features {tuple(features.shape)} are not 2-D; give (N, D)")
    rows = torch.as_tensor(features).detach().to("cpu", torch.float64).numpy()
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{function}: {bad.size} of {rows.shape[0]} rows of features hold NaN or infinity, "
            f"first row {bad[0]}; the model that made them has diverged"
        )
    return rows


def _scale(rows: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Rows brought to about 1 by a power of two, which rounds nothing."""
    _, exponent = np.frexp(largest)
    return np.ldexp(rows, -exponent)
