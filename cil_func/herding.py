"""Herding: chooses the few images that represent a class after the others are gone.

The mean feature of the 20 images in a memory should be near the mean of all 500, since the nearest-mean prediction uses
this mean and replay trains on these images. Herding chooses one image after the other, so that every prefix of its
choice is a good memory too: when quotas shrink, the images that were chosen last are dropped first.

Everything is computed eagerly, on the CPU and in float64, since the choice must be the same on every machine and in
every process. It takes a few matrix-vector products for each class.
"""

import operator

import numpy as np
import torch

# Equal rows can get scores that differ in the last bits, since BLAS sums a row by its place in a block. So scores count
# as equal if they differ by less than this part of the magnitudes that they were computed from.
TIE = 1e-12
# How far rounding moves a row of length 1 that `unit_rows` returns: rows of one direction may differ by this.
_UNIT_ERROR = 16 * np.finfo(np.float64).eps


def herd(features: torch.Tensor, count: int, *, normalize: bool = True) -> torch.Tensor:
    """Chooses `count` rows, one after the other, so that their mean is as near as possible to the mean of all rows.

        p_k = argmin_i || mu - (f_i + sum_{j<k} f_{p_j}) / k ||,   mu = mean of all rows,   i not yet picked

    features: (N, D), of any dtype and on any device. normalize: whether rows are L2-normalised first (a zero row stays
    zero); their mean isn't normalised.
    Returns distinct row numbers in order of selection, (count,) int64 on the CPU. herd(f, m) is the beginning of
    herd(f, n) for m < n. Of equally good rows the lowest is taken. Takes O(count * N * D).
    Raises ValueError if features are not 2-D or not finite, or count is below 0 or above N.
    Source: Rebuffi et al. 2017 (iCaRL, arXiv:1611.07725), algorithm 4; here without replacement.
    """
    rows = finite_rows("herd", features)
    num_rows, count = rows.shape[0], operator.index(count)
    if not 0 <= count <= num_rows:
        raise ValueError(f"herd: count={count} of {num_rows} rows; give 0 to {num_rows}")
    rows = unit_rows(rows) if normalize else _scale(rows, np.abs(rows).max(initial=0.0))
    rows, error = _centred(rows), _UNIT_ERROR if normalize else 0.0
    # Let k rows be chosen, s their sum, total the sum of all rows, and r = (k + 1) total - N s. The norm above is least
    # where 2 f_i . r - N ||f_i||^2 is largest. This needs no division by N or k, so integer features stay exact.
    squares = np.einsum("nd,nd->n", rows, rows)  # (N,)
    lengths = np.sqrt(squares)
    total, chosen_sum = rows.sum(axis=0), np.zeros(rows.shape[1])  # (D,)
    all_lengths, chosen_lengths = lengths.sum(), 0.0  # and not the lengths of the sums, in which rows may cancel
    free = np.ones(num_rows, dtype=bool)
    chosen = np.empty(count, dtype=np.int64)
    for k in range(count):
        residual = (k + 1) * total - num_rows * chosen_sum  # (D,)
        scores = np.where(free, 2 * (rows @ residual) - num_rows * squares, -np.inf)  # (N,)
        best = scores.argmax()
        magnitude = (k + 1) * all_lengths + num_rows * chosen_lengths
        slack = 2 * (TIE * lengths + error) * magnitude  # (N,), and below what `error` does to a row's square and to r
        slack += num_rows * (TIE * lengths + 4 * (k + 1) * error) * lengths
        chosen[k] = pick = np.flatnonzero(scores + slack >= scores[best] - slack[best])[0]
        free[pick] = False
        chosen_sum, chosen_lengths = chosen_sum + rows[pick], chosen_lengths + lengths[pick]
    return torch.from_numpy(chosen)


def _centred(rows: np.ndarray) -> np.ndarray:
    """Returns rows (N, D) minus one of them, the one nearest to their mean.

    Herding's choice doesn't change if all rows move by one vector. The squares of rows that differ little, far from the
    origin, would lose the digits in which the rows differ. A row is subtracted, and not the mean, since the difference
    of two integers, or of two numbers near each other, isn't rounded.
    """
    if not len(rows):
        return rows
    from_mean = rows - rows.mean(axis=0)
    return rows - rows[np.einsum("nd,nd->n", from_mean, from_mean).argmin()]


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Returns each row divided by its L2 norm, (N, D) float64. rows: (N, D) float64. Zero rows stay zero."""
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0.0)  # (N, 1)
    rows = _scale(rows, largest)  # else the squares of tiny or huge rows would be 0 or infinite
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)  # (N, 1)
    return rows / np.where(lengths == 0, 1.0, lengths)


def finite_rows(function: str, features: torch.Tensor) -> np.ndarray:
    """Returns features as a NumPy array (N, D), float64. features: a tensor (N, D), of any dtype and on any device.

    Raises ValueError, which names `function`, if they are not 2-D or not finite.
    """
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
    """Returns rows divided by a power of two that is about `largest`, which rounds nothing.

    rows: (N, D). largest: a number for all rows, or (N, 1), one for each; 0 leaves rows as they are.
    """
    _, exponent = np.frexp(largest)
    return np.ldexp(rows, -exponent)
