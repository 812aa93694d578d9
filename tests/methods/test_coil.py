"""COIL: whole runs against a conventional loop, and the plan of a transport against a linear programme."""

import copy
import itertools
import math

import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linprog
from torch import nn

from cil_func import tree
from cil_func.networks import transport
from cil_func.networks.outputs import classes_of

F64 = torch.float64
WEIGHT, ENTROPY, NORM = 0.7, 0.3, 2.5


def features_of(net, images):
    return net.maps(images)[-1].mean((2, 3))  # without the last ReLU


def unit(vectors):
    return vectors / vectors.norm(dim=-1, keepdim=True)


def plan_of(net, run, phase, old, seen):
    """The plan (old, seen - old) by scaling exp(-cost / entropy), of exemplars and new images."""
    means = []
    for label in range(seen):
        new = run.images[phase][run.labels[phase] == label]
        with torch.no_grad():
            features = features_of(net, run.pixels[run.exemplars[phase - 1][label]] if label < old else new)
        means.append(unit(unit(features).mean(0)).numpy())
    cost = [[(abs(a - b) ** NORM).sum() ** (1 / NORM) for b in means[old:]] for a in means[:old]]
    return torch.from_numpy(scaled(np.array(cost), ENTROPY))


def scaled(cost, entropy):
    kernel = np.exp(-cost / entropy)
    left = np.ones(len(cost))
    for _ in range(3000):
        right = 1 / cost.shape[1] / (kernel.T @ left)
        left = 1 / len(cost) / (kernel @ right)
    return left[:, None] * kernel * right


def test_three_phases_are_those_of_a_conventional_loop(monkeypatch):
    options = {"transport": WEIGHT, "entropy": ENTROPY, "norm": NORM}
    run = oracle.learn(monkeypatch, "coil", *[f"method.options.{key}={value}" for key, value in options.items()])
    net, sigma = oracle.backbone(*run.started[0]), nn.Parameter(torch.tensor(1.0, dtype=F64))
    weight = nn.Parameter(run.started[0].params["classifier"]["weight"].clone())
    for phase, old, seen in oracle.phases():
        teacher, taught = copy.deepcopy(net).eval(), weight.detach().clone()
        scale, per_epoch, step = sigma.item(), len(run.batches[phase, ""]) / oracle.EPOCHS, itertools.count()
        plan, ahead = None, None
        if phase:
            plan = plan_of(teacher, run, phase, old, seen)
            moved = plan.T @ unit(taught)
            ahead = moved * taught.norm(dim=1).mean() / moved.norm(dim=1).mean()
            weight = nn.Parameter(torch.cat([taught, ahead]))

        def loss(images, labels, old=old, seen=seen, weight=weight, teacher=teacher, taught=taught, scale=scale,
                 plan=plan, ahead=ahead, per_epoch=per_epoch, step=step):  # fmt: skip
            features = unit(features_of(net, images))
            logits = sigma * features @ unit(weight).T
            if not old:
                return F.cross_entropy(logits, labels)
            with torch.no_grad():
                before = scale * unit(features_of(teacher, images)) @ unit(taught).T
            value = (1 - old / seen) * F.cross_entropy(logits, labels)
            value = value + old / seen * oracle.soft_cross_entropy(logits[:, :old], before)
            epoch = int(next(step) / per_epoch)
            if epoch == 0:  # here the target depends on the features too
                wanted = torch.softmax(features @ unit(ahead).T / 2, 1)
                return value - WEIGHT * (wanted * torch.log_softmax(logits[:, old:] / 2, 1)).sum(1).mean()
            back = plan @ unit(weight[old:].detach())
            carried = oracle.soft_cross_entropy(features @ unit(back).T, before)
            return value + WEIGHT * (epoch / oracle.EPOCHS) ** 2 * carried

        net.train()
        oracle.train([*net.parameters(), weight, sigma], run.batches[phase, ""], loss)
        net.eval()
    params, state = run.learned
    oracle.assert_backbone(net, params, state)
    oracle.assert_near(params["classifier"], {"weight": weight})
    oracle.assert_near({"sigma": params["head"]["sigma"]}, {"sigma": sigma})


def costs(rows, columns, seed):
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=F64)


def least(cost):
    """The optimal plan by a linear programme: rows sum to 1 / n, columns to 1 / m."""
    rows, columns = cost.shape
    sums = np.concatenate([np.kron(np.eye(rows), np.ones(columns)), np.kron(np.ones(rows), np.eye(columns))])
    shares = np.concatenate([np.full(rows, 1 / rows), np.full(columns, 1 / columns)])
    return linprog(cost.numpy().ravel(), A_eq=sums, b_eq=shares, bounds=(0, None)).x.reshape(rows, columns)


@pytest.mark.parametrize(("rows", "columns"), [(3, 2), (2, 5), (1, 3), (4, 1)])
def test_the_plan_is_the_one_of_least_cost_where_entropy_counts_little(rows, columns):
    for seed in range(3):
        cost = costs(rows, columns, seed)
        found, expected = transport.sinkhorn(cost, entropy=2e-3), torch.from_numpy(least(cost))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
        excess = (cost * (found - expected)).sum()  # at most what entropy is worth: that of an even plan
        assert -1e-12 < excess <= 2e-3 * math.log(rows * columns)


def test_the_plan_meets_its_shares_and_the_condition_of_an_optimum():
    """cost + entropy log T is a sum of a number for each row and one for each column (Lagrange)."""
    cost = costs(9, 4, 1)
    found = transport.sinkhorn(cost, entropy=0.464)
    torch.testing.assert_close(found.sum(1), torch.full((9,), 1 / 9, dtype=F64), rtol=0, atol=1e-14)
    torch.testing.assert_close(found.sum(0), torch.full((4,), 1 / 4, dtype=F64), rtol=0, atol=1e-14)
    slope = cost + 0.464 * found.log()
    assert (slope - slope[:1] - slope[:, :1] + slope[0, 0]).abs().max() < 1e-12
    assert transport.sinkhorn(cost * 1e4, entropy=0.464, steps=50).isfinite().all()


def test_an_old_class_without_exemplars_is_placed_at_its_row():
    """Costs 0 and sqrt 2: each new class is nearest to one old class, and its row begins there, as long as the mean."""
    weight = torch.tensor([[2.0, 0.0], [0.0, 4.0], [0.3, 0.4], [0.1, 0.2]], dtype=F64)
    head = tree.cast(transport.shared(0, 2, 5, 2) | {"sigma": torch.tensor(5.0)}, dtype=F64)
    features, labels = torch.tensor([[0.0, 7.0], [1.0, 0.0], [3.0, 0.0]]), torch.tensor([2, 3, 3])
    given = {"backbone": {}, "classifier": {"weight": weight}, "head": head}
    found = transport.imprint(given, features, labels, classes_of([2, 2, 1], 1), 0, entropy=0.01, norm=2.0)
    expected = torch.tensor([[2.0, 0.0], [0.0, 4.0], [0.0, 3.0], [3.0, 0.0]], dtype=F64)
    torch.testing.assert_close(found["classifier"]["weight"], expected)
    torch.testing.assert_close(found["head"]["prospective"][2:4], expected[2:])
    torch.testing.assert_close(found["head"]["plan"][:2, 2:4], torch.tensor([[0, 1.0], [1.0, 0]], dtype=F64))
    assert found["head"]["plan"].sum() == pytest.approx(2) and found["head"]["sigma"] == 5
    assert (head["plan"] == 0).all()  # what was given stays
    said = transport.apply(found["classifier"], found["head"], torch.tensor([[0.0, 2.0]], dtype=F64), None)[1]
    assert said["prospective"][0].tolist() == pytest.approx([0, 0, 1, 0], abs=1e-12)
    assert said["retrospective"][0].tolist() == pytest.approx([0, 1, 0, 0], abs=1e-12)
