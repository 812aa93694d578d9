"""The quadratic penalty of EWC and MAS: where descent on it ends, and that two trees remember any number of phases."""

import pytest
import torch

from cil_func import tree
from cil_func.methods import quadratic

F64 = torch.float64


def draw(seed: int, *, above: float | None = None) -> dict:
    """A tree of two leaves; above: the least of its numbers."""
    generator = torch.Generator().manual_seed(seed)
    leaves = [torch.randn(shape, generator=generator, dtype=F64) for shape in ((3, 2), (4,))]
    leaves = leaves if above is None else [leaf.abs() + above for leaf in leaves]
    return {"backbone": {"conv": leaves[0]}, "classifier": {"bias": leaves[1]}}


def summed(phases: list, strength: float):
    """params -> strength / 2 sum over phases k and weights of importance_k (w - w_k)^2, written out."""

    def value(params):
        total = torch.zeros((), dtype=F64)
        for importance, anchor in phases:
            for one, other, weight in zip(*map(tree.leaves, (importance, anchor, params)), strict=True):
                for place in range(weight.numel()):
                    moved = weight.reshape(-1)[place] - other.reshape(-1)[place]
                    total = total + strength / 2 * one.reshape(-1)[place] * moved**2
        return total

    return value


def remembered(phases: list, keep: float | None = None) -> dict:
    extra = quadratic.start(draw(0))
    for importance, params in phases:
        extra = quadratic.remember(extra, params, importance, keep=keep)
    return extra


def test_descent_on_a_new_loss_and_the_penalty_ends_between_the_two_minima():
    """1/2 a (w - w_2)^2 + lambda / 2 F (w - w_1)^2 is least at (a w_2 + lambda F w_1) / (a + lambda F)."""
    curvature, new, importance, old = draw(1, above=0.5), draw(2), draw(3, above=0.1), draw(4)
    extra = remembered([(importance, old)])

    def loss(params):
        own = tree.map(lambda a, w2, w: (0.5 * a * (w - w2) ** 2).sum(), curvature, new, params)
        return sum(tree.leaves(own)) + quadratic.penalty(3.0)(params, extra, None)

    params = draw(5)
    for _ in range(250):
        params = tree.map(lambda w, grad: w - 0.15 * grad, params, torch.func.grad(loss)(params))
    expected = tree.map(
        lambda a, w2, f, w1: (a * w2 + 3 * f * w1) / (a + 3 * f), curvature, new, importance, old
    )
    tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=1e-12), params, expected)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_two_trees_remember_the_penalties_of_all_phases(count):
    """But for a constant: values differ by the same number everywhere, so gradients are equal."""
    phases = [(draw(10 + k, above=0.01), draw(20 + k)) for k in range(count)]
    phases[-1][0]["backbone"]["conv"][0, 0] = 0.0  # a weight that a phase doesn't need
    extra, penalty = remembered(phases), quadratic.penalty(7.0)
    points = [draw(30 + k) for k in range(4)]
    gaps = [penalty(point, extra, None) - summed(phases, 7.0)(point) for point in points]
    for gap, point in zip(gaps, points, strict=True):
        assert gap.item() == pytest.approx(gaps[0].item(), abs=1e-10)
        ours = torch.func.grad(lambda point: penalty(point, extra, None))(point)
        tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12), ours,
                 torch.func.grad(summed(phases, 7.0))(point))  # fmt: skip
    assert count == 1 or abs(gaps[0]) > 0.1


def test_weights_that_never_mattered_are_free():
    zero = tree.map(torch.zeros_like, draw(0))
    extra = remembered([(zero, draw(1)), (zero, draw(2))])
    slope = torch.func.grad(lambda params: quadratic.penalty(9.0)(params, extra, None))(draw(3))
    assert not any(leaf.any() for leaf in tree.leaves(slope))
    assert all(leaf.isfinite().all() for leaf in tree.leaves(extra))


def test_a_mixture_keeps_a_share_of_the_old_importances_around_the_last_weights():
    phases = [(tree.map(torch.ones_like, draw(0)), draw(1)), (tree.map(lambda leaf: leaf * 0 + 3, draw(0)), draw(2))]
    extra = remembered(phases, keep=0.25)
    for leaf in tree.leaves(extra["importance"]):  # 0.75 * 1, then 0.25 * 0.75 + 0.75 * 3
        assert (leaf == 2.4375).all()
    tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=0), extra["anchor"], phases[1][1])
