"""EWC and MAS as conventional loops: a network of torch.nn, backward(), and one penalty for each earlier phase."""

from collections.abc import Callable

import oracle
import torch
import torch.nn.functional as F
from torch import nn

from cil_func import tree


def train_phases(run: oracle.Run, measure: Callable, *, strength: float, keep: float | str | None = None):
    """Trains on the batches of `run`; returns (network, [(importances, anchors), ...]).

    measure(network, images, labels) -> {name: importance} of a finished phase. keep: None remembers every phase; a
    number, one mixture of all: keep * what was + (1 - keep) * the new importances, around the last weights; "share":
    with the share of old classes for it.
    """
    net, remembered = oracle.backbone(*run.started[0]), []
    for phase, old, seen in oracle.phases():
        rows = run.started[phase].params["classifier"]
        net.classifier = oracle.grown(net.classifier, rows) if phase else oracle.linear(**rows)

        def loss(images, labels, old=old, seen=seen):
            value = F.cross_entropy(net(images)[0][:, old:seen], labels - old)  # over the new classes alone
            for importances, anchors in remembered:
                for name, leaf in net.named_parameters():
                    moved = leaf[: len(anchors[name])] - anchors[name]
                    value = value + strength / 2 * (importances[name] * moved**2).sum()
            return value

        net.train()
        oracle.train(net.parameters(), run.batches[phase, ""], loss)
        net.eval()
        found = measure(net, run.images[phase], run.labels[phase])
        if keep is not None:
            kept = old / seen if keep == "share" else keep
            found = {name: (1 - kept) * leaf for name, leaf in found.items()}
            for name, leaf in remembered.pop()[0].items() if remembered else ():
                found[name][: len(leaf)] += kept * leaf
        remembered.append((found, {name: leaf.detach().clone() for name, leaf in net.named_parameters()}))
    return net, remembered


def mean_of_gradients(net: nn.Module, output: Callable, shape: Callable, images, labels, *, per: str) -> dict:
    """The mean of shape(gradient of output(logits, labels)), over single images or over the one batch of them all."""
    groups = range(len(images)) if per == "image" else [slice(None)]
    total = {name: torch.zeros_like(leaf) for name, leaf in net.named_parameters()}
    for group in groups:
        one = [group] if per == "image" else group
        net.zero_grad()
        output(net(images[one])[0], labels[one]).backward()
        for name, leaf in net.named_parameters():
            total[name] += shape(leaf.grad) / len(groups)
    return total


def check(run: oracle.Run, net: nn.Module, remembered: list) -> None:
    """Asserts that our run ended with these weights, importances and anchors, the sums over phases weighted."""
    params, state = run.learned
    oracle.assert_backbone(net, params, state)
    oracle.assert_near(params["classifier"], net.classifier.state_dict())
    for part in ("importance", "anchor"):
        extra = run.extra[part]
        ours = oracle.named(extra, {"backbone": {"": {}}})
        ours |= {f"classifier.{name}": leaf for name, leaf in extra["classifier"].items()}
        theirs = {}
        for name, leaf in net.named_parameters():
            total, weighted = torch.zeros_like(leaf), torch.zeros_like(leaf)
            for importances, anchors in remembered:
                total[: len(anchors[name])] += importances[name]
                weighted[: len(anchors[name])] += importances[name] * anchors[name]
            assert (total > 0).any()
            theirs[name] = total if part == "importance" else torch.where(total > 0, weighted / total, ours[name])
        assert len(ours) == len(theirs)
        oracle.assert_near(ours, theirs)


class Loops:
    """Passes over a few points in a Python loop: see `methods.extra.Passes`. By batch there is one batch.

    logits(params, points (B, ...)) -> (B, C).
    """

    def __init__(self, logits: Callable, params: dict, points: torch.Tensor, labels: torch.Tensor):
        self.logits, self.params, self.points, self.labels = logits, params, points, labels

    def mean(self, measure: Callable, *, by: str) -> dict:
        groups = [[i] for i in range(len(self.points))] if by == "image" else [list(range(len(self.points)))]
        found = []
        for group in groups:
            logits_of = lambda params, group=group: self.logits(params, self.points[group])  # noqa: E731
            found.append(measure(self.params, logits_of, self.labels[group]))
        return tree.map(lambda *leaves: sum(leaves) / len(groups), *found)
