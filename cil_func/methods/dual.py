"""The small quadratic program of GEM, solved by a fixed number of operations on tensors, so that a step can hold it."""

import torch

PIVOTS = 4  # of each unknown: random programs of 2 to 19 unknowns took at most 1.6 of each


def minimum(matrix: torch.Tensor, vector: torch.Tensor, *, lower: float) -> torch.Tensor:
    """Returns the v (n,) that makes v' matrix v / 2 + vector' v least, among those with no entry below `lower`.

    matrix: (n, n), symmetric and positive definite. vector: (n,). It is computed in float64, exactly but for rounding.
    With z = v - lower and w = matrix v + vector, the solution has z, w >= 0 and z w = 0 in each entry. An unknown is
    free (w = 0) or at its bound (z = 0). All begin at the bound; one whose number is below 0 changes sides, until there
    is none, or PIVOTS n times: 2 n times the one furthest below, then the first.
    Source: Murty 1974, Mathematical Programming 7: with the first one it ends for every positive definite matrix. The
    furthest one is faster, but may go round in circles.
    """
    size, matrix, wide = len(vector), matrix.double(), vector.double()
    scale = matrix.diagonal().rsqrt()  # to a diagonal of ones
    matrix, numbers = matrix * scale[:, None] * scale, scale * (matrix.sum(1) * lower + wide)
    table = torch.cat([matrix, numbers[:, None]], dim=1)  # (n, n + 1)
    free = torch.zeros(size, dtype=torch.bool, device=vector.device)
    places = torch.arange(size, device=vector.device)
    for number in range(PIVOTS * size):
        below = table[:, -1] < -1e-12
        chosen = below & (places == (table[:, -1].argmin() if number < 2 * size else below.int().argmax()))
        table, free = torch.where(below.any(), _pivoted(table, chosen), table), free ^ chosen
    return (lower + scale * torch.where(free, table[:, -1], 0.0).clamp(min=0)).to(vector.dtype)


def _pivoted(table: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Returns the table with the chosen unknown on the other side: solved for in its row, and put into the others."""
    at = chosen.double()  # (n,)
    row, column = (at[:, None] * table).sum(0), (table[:, :-1] * at).sum(1)
    pivot = torch.where(chosen.any(), (at * column).sum(), 1.0)
    changed = table - column[:, None] * row / pivot
    changed = torch.where(chosen[:, None], -row / pivot, changed)
    solved = torch.where(chosen, 1.0 / pivot, column / pivot)  # the chosen one's own column
    inner = torch.where(chosen, solved[:, None], changed[:, :-1])
    return torch.cat([inner, changed[:, -1:]], dim=1)
