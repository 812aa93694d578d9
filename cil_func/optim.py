"""Optimisers as pairs of pure functions (after optax), and learning rates as functions of the epoch.

Updates go through torch._foreach_*, as torch.optim's do: a few kernels on a GPU instead of several a leaf.
"""

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from cil_func import tree


@dataclass(frozen=True)
class Optimiser:
    """init(params) -> opt_state; update(grads, opt_state, params, rate) -> (updates, new opt_state)."""

    init: Callable
    update: Callable


def sgd(*, momentum: float = 0.0, weight_decay: float = 0.0) -> Optimiser:
    """Stochastic gradient descent with heavy-ball momentum and L2 decay, as `torch.optim.SGD` computes it.

    d = grad + weight_decay * param;  velocity = momentum * velocity + d;  update = -rate * velocity.
    rate is a 0-d tensor, so that a changed rate does not compile the step anew. Velocities start at zero.
    """

    def init(params: tree.Tree) -> tree.Tree:
        return tree.map(torch.zeros_like, params)

    def update(grads, opt_state, params, rate):
        grads, velocity, leaves = map(tree.leaves, (grads, opt_state, params))
        velocity = torch._foreach_mul(velocity, momentum)
        if weight_decay:
            grads = torch._foreach_add(grads, leaves, alpha=weight_decay)
        velocity = torch._foreach_add(velocity, grads)
        updates = torch._foreach_mul(velocity, -rate)
        return tree.unflatten(updates, params), tree.unflatten(velocity, params)

    return Optimiser(init, update)


def apply_updates(params: tree.Tree, updates: tree.Tree) -> tree.Tree:
    """params + updates, leaf by leaf."""
    return tree.unflatten(torch._foreach_add(tree.leaves(params), tree.leaves(updates)), params)


def cosine(rate: float, *, epochs: int, warmup_epochs: int = 0) -> Callable[[int], float]:
    """epoch -> rate, from `rate` down to 0 on half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983).

    It changes once an epoch, as torch's CosineAnnealingLR stepped by epochs does.
    """

    def schedule(epoch: int) -> float:
        progress = (epoch - warmup_epochs) / (epochs - warmup_epochs)
        return rate * 0.5 * (1.0 + math.cos(math.pi * progress))

    return _after_warmup(schedule, rate, warmup_epochs)


def milestones(
    rate: float, *, at: Sequence[int], factor: float, warmup_epochs: int = 0
) -> Callable[[int], float]:
    """epoch -> rate, multiplied by `factor` at the start of each epoch in `at` (ascending)."""
    return _after_warmup(lambda epoch: rate * factor ** bisect.bisect_right(at, epoch), rate, warmup_epochs)


def _after_warmup(schedule: Callable[[int], float], rate: float, warmup_epochs: int) -> Callable[[int], float]:
    """Puts a linear rise in front: epoch e < warmup_epochs trains at rate * (e + 1) / warmup_epochs."""
    return lambda epoch: rate * (epoch + 1) / warmup_epochs if epoch < warmup_epochs else schedule(epoch)
