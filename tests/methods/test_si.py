"""SI: whole runs against a conventional loop, and the path integral on a quadratic."""

import oracle
import path_oracle
import pytest
import torch

from cil_func import methods
from cil_func.networks import outputs


@pytest.mark.parametrize(("negative", "strength"), [("clip", 20.0), ("keep", 0.5)])
def test_three_phases_are_those_of_a_conventional_loop(negative, strength, monkeypatch):
    """The authors' code, which clips the sum of importances at 0, and equation 5 as it stands."""
    run = oracle.learn(
        monkeypatch, "si", f"method.options.strength={strength}", "method.options.damping=0.01",
        f"method.options.negative={negative}",
    )  # fmt: skip

    def step(walk):
        walk.path = {name: sum_ - walk.grads[name] * walk.moves[name] for name, sum_ in walk.path.items()}

    def finish(walk):
        for name, leaf in walk.importance.items():
            leaf += walk.path[name] / ((walk.weights[name] - walk.anchor[name]) ** 2 + 0.01)
        assert sum((leaf < 0).sum() for leaf in walk.importance.values()) > 10
        if negative == "clip":
            walk.importance = {name: leaf.clamp(min=0) for name, leaf in walk.importance.items()}

    net, walk = path_oracle.train_phases(run, step, finish, strength=2 * strength)
    path_oracle.check(run, net, {"importance": walk.importance})


def walked(options, rate, steps):
    """SI's importance of a weight, after gradient descent on 2 (w - 1)^2 from w = 3; and where that ends."""
    made, classes = methods.make("si", methods.Options(), options), outputs.classes_of([2], 0)
    weight = torch.tensor(3.0, dtype=torch.float64)
    extra = made.extra.begin(made.extra.start({"w": weight}), {"w": weight}, classes)
    for _ in range(steps):
        grad = 4 * (weight - 1)
        moved = weight - rate * grad
        extra = made.track(extra, {"w": weight}, {"w": moved}, {"w": grad}, classes)
        weight = moved
    return made.extra.after(extra, {"w": weight}, None, classes)["importance"]["w"].item(), weight.item()


def test_the_path_integral_on_a_quadratic_is_the_fall_of_the_loss():
    """By small steps: from 2 * 2^2 = 8 to 2 (w - 1)^2, divided by (3 - w)^2 + xi."""
    found, end = walked({"damping": 0.5}, rate=1e-4, steps=5000)
    assert found == pytest.approx((8 - 2 * (end - 1) ** 2) / ((3 - end) ** 2 + 0.5), rel=1e-3)
    assert 1.2 < end < 1.5


def test_one_step_by_hand():
    """The gradient at 3 is 8; by the rate 0.25 w becomes 1: 8 * 2 / (2^2 + 1)."""
    assert walked({"damping": 1.0}, rate=0.25, steps=1) == (3.2, 1.0)


def test_a_loss_that_rose_counts_nothing_or_against():
    """From 3 by the rate 0.25 to 1, and there the gradient is 0; then on by hand, uphill to 2 with gradient 4."""
    classes, tensor = outputs.classes_of([2], 0), lambda value: {"w": torch.tensor(value)}
    for negative, expected in (("clip", 0.0), ("keep", -2.0)):
        made = methods.make("si", methods.Options(), {"damping": 1.0, "negative": negative})
        extra = made.extra.begin(made.extra.start(tensor(1.0)), tensor(1.0), classes)
        extra = made.track(extra, tensor(1.0), tensor(2.0), tensor(4.0), classes)
        assert made.extra.after(extra, tensor(2.0), None, classes)["importance"]["w"].item() == expected
