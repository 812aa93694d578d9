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

        d = grad + weight_decay * param;   velocity = momentum * velocity + d;   update = -rate * velocity

    opt_state: {"momentum": 0-d, "weight_decay": 0-d, "velocity": a tree like params}; velocities start at zero.
    Momentum and decay are tensors of the state, and rate is a 0-d tensor: phases with other numbers share one
    compiled step, and all three can be mapped over or differentiated. `update` works under torch.compile,
    torch.func.vmap and torch.func.grad.
    """

    def init(params: tree.Tree) -> tree.Tree:
        some = next(iter(tree.leaves(params)), torch.zeros(()))  # nothing may be trained
        numbers = {"momentum": some.new_tensor(momentum), "weight_decay": some.new_tensor(weight_decay)}
        return numbers | {"velocity": tree.map(torch.zeros_like, params)}

    def update(grads, opt_state, params, rate):
        gradients, velocity, leaves = map(tree.leaves, (grads, opt_state["velocity"], params))
        decayed = _multiply(leaves, opt_state["weight_decay"])
        velocity = _add(_multiply(velocity, opt_state["momentum"]), _add(gradients, decayed))
        updates = _multiply(velocity, -rate)
        return tree.unflatten(updates, params), opt_state | {"velocity": tree.unflatten(velocity, params)}

    return Optimiser(init, update)


def apply_updates(params: tree.Tree, updates: tree.Tree) -> tree.Tree:
    """params + updates, leaf by leaf."""
    return tree.unflatten(_add(tree.leaves(params), tree.leaves(updates)), params)


def _multiply(leaves: list[torch.Tensor], number: torch.Tensor) -> list[torch.Tensor]:
    """Each leaf times a 0-d tensor."""
    if _one_by_one(*leaves, number):
        return [leaf * number for leaf in leaves]
    return list(torch._foreach_mul(leaves, number))


def _add(leaves: list[torch.Tensor], others: list[torch.Tensor]) -> list[torch.Tensor]:
    """The sums of two lists of leaves, pair by pair."""
    if _one_by_one(*leaves, *others):
        return [leaf + other for leaf, other in zip(leaves, others, strict=True)]
    return list(torch._foreach_add(leaves, others))


def _one_by_one(*tensors: torch.Tensor) -> bool:
    """Whether torch._foreach_* can't be used: it has no rule for transforms, nor a derivative by a rate."""
    # The one question of this kind that torch.compile can trace.
    transformed = torch._C._functorch.peek_interpreter_stack() is not None
    return transformed or any(each.requires_grad for each in tensors)


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
