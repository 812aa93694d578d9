"""SI and RWalk as conventional loops: a network of torch.nn, autograd, and sums over the path of each weight."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import oracle
import torch
import torch.nn.functional as F

from cil_func import tree


@dataclass
class Walk:
    """What a loop knows of each weight, by its name.

    importance: in the penalty. anchor: the weights that the phase began with. path: a sum over its steps.
    grads, moves: of the last step. weights: after it. more: what a method adds.
    """

    importance: dict
    anchor: dict = field(default_factory=dict)
    path: dict = field(default_factory=dict)
    grads: dict = field(default_factory=dict)
    moves: dict = field(default_factory=dict)
    weights: dict = field(default_factory=dict)
    more: dict = field(default_factory=dict)


def train_phases(run: oracle.Run, step: Callable, finish: Callable, *, strength: float, more: tuple[str, ...] = ()):
    """Trains on the batches of `run`; returns (network, walk).

    step(walk) is called after each step, finish(walk) after each phase. strength: of the penalty, strength / 2 * sum of
    importance (w - anchor)^2. more: names of `Walk.more`'s parts, which begin with 0.
    """
    net, walk = oracle.backbone(*run.started[0]), Walk({}, more={name: {} for name in more})
    for phase, old, seen in oracle.phases():
        rows = run.started[phase].params["classifier"]
        net.classifier = oracle.grown(net.classifier, rows) if phase else oracle.linear(**rows)
        walk.anchor = copies(net)
        for part in (walk.importance, *walk.more.values()):
            for name, leaf in walk.anchor.items():  # a row of the classifier that is new has nothing yet
                before = part.get(name, leaf[:0])
                part[name] = torch.zeros_like(leaf)
                part[name][: len(before)] = before
        walk.path = {name: torch.zeros_like(leaf) for name, leaf in walk.anchor.items()}
        net.train()
        batches, named = run.batches[phase, ""], dict(net.named_parameters())
        sgd = torch.optim.SGD(named.values(), lr=oracle.RATE, momentum=0.9, weight_decay=oracle.DECAY)
        per_epoch = len(batches) // oracle.EPOCHS
        for number, (images, labels) in enumerate(batches):
            turned = math.pi * (number // per_epoch) / oracle.EPOCHS
            sgd.param_groups[0]["lr"] = oracle.RATE * (1 + math.cos(turned)) / 2
            loss = F.cross_entropy(net(images)[0][:, old:seen], labels - old)  # over the new classes alone
            walk.grads = dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))
            before = copies(net)
            for name, leaf in named.items():
                leaf.grad = walk.grads[name] + strength * walk.importance[name] * (before[name] - walk.anchor[name])
            sgd.step()
            walk.weights = copies(net)
            walk.moves = {name: leaf - before[name] for name, leaf in walk.weights.items()}
            step(walk)
        finish(walk)
    return net, walk


def copies(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: leaf.detach().clone() for name, leaf in net.named_parameters()}


def check(run: oracle.Run, net: torch.nn.Module, remembered: dict[str, dict]) -> None:
    """Asserts that our run ended with these weights and remembers {name: {weight's name: number}}, nothing else."""
    params, state = run.learned
    oracle.assert_backbone(net, params, state)
    oracle.assert_near(params["classifier"], net.classifier.state_dict())
    assert run.extra.keys() == remembered.keys()
    for part, theirs in remembered.items():
        extra = run.extra[part]
        ours = oracle.named(extra, {"backbone": {"": {}}})
        ours |= {f"classifier.{name}": leaf for name, leaf in extra["classifier"].items()}
        assert len(ours) == len(theirs) == len(tree.leaves(extra))
        scale = max(leaf.abs().max().item() for leaf in theirs.values())
        oracle.assert_near(ours, theirs, tolerance=oracle.TOLERANCE * max(1.0, scale))
