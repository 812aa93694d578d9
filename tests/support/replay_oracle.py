"""Methods with exemplars beside each batch as conventional loops: a network of torch.nn, one backward a group."""

import math
from collections.abc import Callable, Iterator

import oracle
import torch
import torch.nn.functional as F
from torch import nn


def train_phases(run: oracle.Run, loss: Callable, of_group: Callable, combine: Callable):
    """Trains on the batches of `run`; yields (phase, network) after each phase. Then compares all weights with ours.

    loss(logits, labels, old, seen) -> of a batch. of_group(group's number, logits, labels, stored, images, old, seen)
    -> of a group. combine(gradient, {group: gradient}) -> the gradient, as vectors.
    Each group runs in train mode from the running statistics that the step began with, which then are the mean over all
    images.
    """
    net = oracle.backbone(*run.started[0])
    for phase, old, seen in oracle.phases():
        rows = run.started[phase].params["classifier"]
        net.classifier = oracle.grown(net.classifier, rows) if phase else oracle.linear(**rows)
        net.train()
        sgd = torch.optim.SGD(net.parameters(), lr=oracle.RATE, momentum=0.9, weight_decay=oracle.DECAY)
        per_epoch = len(run.batches[phase, ""]) // oracle.EPOCHS
        for number, (images, labels) in enumerate(run.batches[phase, ""]):
            turned = math.pi * (number // per_epoch) / oracle.EPOCHS
            sgd.param_groups[0]["lr"] = oracle.RATE * (1 + math.cos(turned)) / 2
            begun, moved = buffers(net), []
            gradient = backward(net, loss(net(images)[0], labels, old, seen))
            moved.append((len(images), buffers(net)))
            references = {}
            for group, pictures, targets, stored in groups(run.beside[phase, ""][number]):
                net.load_state_dict(begun, strict=False)
                logits = net(pictures)[0]
                references[group] = backward(net, of_group(group, logits, targets, stored, pictures, old, seen))
                moved.append((len(pictures), buffers(net)))
            assert bool(references) == (phase > 0)
            total = sum(count for count, _ in moved)
            net.load_state_dict(
                {name: sum(count * part[name] for count, part in moved) / total for name in begun}, strict=False
            )
            nn.utils.vector_to_parameters(combine(gradient, references), [leaf.grad for leaf in net.parameters()])
            sgd.step()
        yield phase, net
    params, state = run.learned
    oracle.assert_backbone(net, params, state)
    oracle.assert_near(params["classifier"], net.classifier.state_dict())


def groups(replayed) -> Iterator[tuple]:
    """(number, images, labels, stored logits) of each group, without its padding."""
    for at in range(0 if replayed is None else len(replayed.group)):
        real = replayed.labels[at] >= 0
        stored = None if replayed.stored is None else replayed.stored[at][real]
        yield replayed.group[at].item(), replayed.images[at][real], replayed.labels[at][real], stored


def buffers(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: leaf.clone() for name, leaf in net.named_buffers() if leaf.is_floating_point()}


def backward(net: nn.Module, loss: torch.Tensor) -> torch.Tensor:
    """The loss's gradient, as one vector."""
    net.zero_grad()
    loss.backward()
    return torch.cat([leaf.grad.flatten() for leaf in net.parameters()])


def cross_entropy(logits, labels, old, seen) -> torch.Tensor:
    return F.cross_entropy(logits[:, :seen], labels)
