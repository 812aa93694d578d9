"""GEM: whole runs against a conventional loop whose quadratic program scipy solves, and that program alone."""

import numpy as np
import oracle
import pytest
import replay_oracle
import scipy.linalg
import scipy.optimize
import torch
import torch.nn.functional as F

from cil_func.methods import dual, gem

RIDGE = 1e-3


def solved(matrix: np.ndarray, vector: np.ndarray, lower: float) -> np.ndarray:
    """The least of v' matrix v / 2 + vector' v with v >= lower, as least squares with bounds."""
    root = scipy.linalg.cholesky(matrix, lower=True)
    target = -scipy.linalg.solve_triangular(root, vector, lower=True)
    bounds = (lower, np.inf)
    return scipy.optimize.lsq_linear(root.T, target, bounds, method="bvls", tol=1e-15, max_iter=1000).x


@pytest.mark.parametrize(("columns", "margin"), [("own", 0.5), ("seen", 0.0)])
def test_three_phases_are_those_of_a_conventional_loop(columns, margin, monkeypatch):
    """The paper's and PyCIL's classes, and mammoth's. In phase 2 the second phase has fewer exemplars than a group."""
    run = oracle.learn(
        monkeypatch, "gem", "method.options.images=8", f"method.options.columns={columns}",
        f"method.options.margin={margin}", f"method.options.ridge={RIDGE}",
    )  # fmt: skip
    opposed, first = [], [0, *np.cumsum(oracle.SIZES)]

    def loss(logits, labels, old, seen):
        low = old if columns == "own" else 0
        return F.cross_entropy(logits[:, low:seen], labels - low)

    def of_group(group, logits, labels, stored, images, old, seen):
        assert ((first[group] <= labels) & (labels < first[group + 1])).all() and len(labels) == (8, 8)[group]
        return loss(logits, labels, first[group], first[group + 1] if columns == "own" else seen)

    def combine(gradient, more):
        if not more:
            return gradient
        rows = torch.stack([more[group] for group in sorted(more)])
        opposed.append((rows @ gradient < 0).any().item())
        if not opposed[-1]:
            return gradient
        matrix, vector = (rows @ rows.T).numpy() + RIDGE * np.eye(len(rows)), (rows @ gradient).numpy()
        return gradient + torch.from_numpy(solved(matrix, vector, margin)) @ rows

    for _ in replay_oracle.train_phases(run, loss, of_group, combine):
        pass
    assert sum(opposed) > 3
    assert not all(opposed)


@pytest.mark.parametrize("size", [1, 2, 5, 9, 19])
@pytest.mark.parametrize("kind", ["random", "alike", "of many lengths"])
def test_the_quadratic_program_is_solved_as_by_scipy(size, kind):
    draw = np.random.default_rng(size)
    for trial in range(4):
        rows = draw.normal(size=(size, (size + 2, 60)[trial % 2]))
        if kind == "alike":
            rows = rows[:1] + 0.1 * rows
        if kind == "of many lengths":
            rows *= 10.0 ** draw.uniform(-2, 1, size=(size, 1))
        gradient = draw.normal(size=rows.shape[1]) - (trial % 3) * rows.sum(0)
        matrix, vector, lower = rows @ rows.T + RIDGE * np.eye(size), rows @ gradient, 0.5 * (trial % 2)
        expected = solved(matrix, vector, lower)
        found = dual.minimum(torch.from_numpy(matrix), torch.from_numpy(vector), lower=lower).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9 * abs(expected).max())
        slopes = matrix @ found + vector  # of the function: 0, or at the bound above 0
        assert (found >= lower).all()
        assert (slopes > -1e-8 * abs(vector).max()).all()


def test_projection_by_hand():
    """(1, 1) against (-1, 0): without a margin the product becomes 0; an orthogonal phase and an empty one stay out."""
    references = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    gradient = torch.tensor([1.0, 1.0], dtype=torch.float64)
    found = gem.project(gradient, references, margin=0.0, ridge=1e-9)
    torch.testing.assert_close(found, torch.tensor([0.0, 1.0], dtype=torch.float64))
    # a margin of 2: v = 2 in each, so (1 - 2, 1 + 4)
    found = gem.project(gradient, references, margin=2.0, ridge=1e-9)
    torch.testing.assert_close(found, torch.tensor([-1.0, 5.0], dtype=torch.float64))
    assert torch.equal(gem.project(gradient, -references[:2], margin=2.0, ridge=1e-9), gradient)
