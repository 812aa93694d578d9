"""Optimisers as pairs of pure functions (after optax), and learning rates as functions of the epoch.

The numbers of an optimiser (momentum, decay, betas) are 0-d tensors of its state, and the learning rate is an argument:
phases with other numbers share one compiled step, and each number can be mapped over or differentiated.
"""

import bisect
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Protocol

import torch
from annotated_types import Interval

from cil_func import tree

_Share = Annotated[float, Interval(ge=0, lt=1)]


class Init(Protocol):
    """params -> the state of an optimiser before its first update. params: the tree that it will change."""

    def __call__(self, params: tree.Tree, /) -> tree.Tree: ...


class Update(Protocol):
    """(grads, opt_state, params, rate) -> (updates, new opt_state): what to add to params, and the state afterwards.

    grads, updates: trees like params. opt_state: from `Init`, or from the last update. rate: the learning rate, 0-d.
    Changes none of its arguments. Works under torch.compile, torch.func.vmap and torch.func.grad.
    """

    def __call__(
        self, grads: tree.Tree, opt_state: tree.Tree, params: tree.Tree, rate: torch.Tensor, /
    ) -> tuple[tree.Tree, tree.Tree]: ...


class Schedule(Protocol):
    """(epoch) -> the learning rate of that epoch."""

    def __call__(self, epoch: int, /) -> float: ...


@dataclass(frozen=True)
class Optimiser:
    """An optimiser as two functions, see `Init` and `Update`. `apply_updates` adds what `update` returns.

    takes_vectors: whether `update` may be given vectors of all numbers (`tree.to_vector`) in place of grads, of params
    and of the trees like params in opt_state, which then is a dict of these and of 0-d tensors. So it may if each
    number moves by its own gradient, value and state alone.
    """

    init: Init
    update: Update
    takes_vectors: bool = False


def make(name: str, *, momentum: float = 0.0, weight_decay: float = 0.0, **options: Any) -> Optimiser:
    """Returns the optimiser called `name`, one of TABLE.

    momentum, weight_decay: given to the optimisers that take them, others ignore them. options: the keys of
    [optim.options], given as they are. Raises ValueError for another name, TypeError for an option that the optimiser
    doesn't take.
    """
    if name not in TABLE:
        raise ValueError(f'make: no optimiser "{name}"; one of {", ".join(TABLE)}')
    takes = inspect.signature(TABLE[name]).parameters
    numbers = {"momentum": momentum, "weight_decay": weight_decay}
    return TABLE[name](**{key: value for key, value in numbers.items() if key in takes}, **options)


class DecayMask(Protocol):
    """path -> whether the parameter at this path, such as "classifier.weight", is decayed."""

    def __call__(self, path: str, /) -> bool: ...


def sgd(
    *, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False, decay_mask: DecayMask | None = None
) -> Optimiser:
    """Stochastic gradient descent with momentum and L2 decay, as `torch.optim.SGD` computes it.

        d = grad + weight_decay * param;   velocity = momentum * velocity + d;   update = -rate * velocity

    nesterov: update = -rate * (d + momentum * velocity) instead. decay_mask: as for `adamw`.
    opt_state: {"momentum": 0-d, "weight_decay": 0-d, "velocity": a tree like params}; velocities start at zero.
    momentum, weight_decay: their first values.
    """

    decayed = _decayed(decay_mask)

    def init(params: tree.Tree) -> tree.Tree:
        some = next(iter(tree.leaves(params)), torch.zeros(()))  # nothing may be trained
        numbers = {"momentum": some.new_tensor(momentum), "weight_decay": some.new_tensor(weight_decay)}
        return numbers | {"velocity": tree.map(torch.zeros_like, params)}

    def update(grads, opt_state, params, rate):
        grad, velocity = (tree.to_vector(part, like=rate, order=params) for part in (grads, opt_state["velocity"]))
        direction = grad + opt_state["weight_decay"] * decayed(params, rate)
        velocity = opt_state["momentum"] * velocity + direction
        move = direction + opt_state["momentum"] * velocity if nesterov else velocity
        return tree.from_vector(-rate * move, params), opt_state | {"velocity": tree.from_vector(velocity, params)}

    return Optimiser(init, update, takes_vectors=decay_mask is None)


def adamw(
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decay_mask: DecayMask | None = None,
) -> Optimiser:
    """Adam with decoupled weight decay, as `torch.optim.AdamW` computes it.

        mean = b1 * mean + (1 - b1) * grad;   square = b2 * square + (1 - b2) * grad^2
        update = -rate * weight_decay * param - rate * (mean / (1 - b1^t)) / (sqrt(square / (1 - b2^t)) + eps)

    t counts the updates from 1. betas: (b1, b2). decay_mask(path) -> whether a parameter is decayed; None: all are.
    With a mask, params is a tree of nested dicts.
    opt_state: {"steps", "beta1", "beta2", "eps", "weight_decay": 0-d float64, "mean", "square": trees like params}. In
    float32, 1 - 0.999 would already be wrong in its fifth digit.
    Source: Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2, with the decay multiplied by the rate.
    """
    decayed = _decayed(decay_mask)
    numbers = {"steps": 0.0, "beta1": betas[0], "beta2": betas[1], "eps": eps, "weight_decay": weight_decay}

    def init(params: tree.Tree) -> tree.Tree:
        device = next((leaf.device for leaf in tree.leaves(params)), None)
        tensors = {key: torch.tensor(value, dtype=torch.float64, device=device) for key, value in numbers.items()}
        return tensors | {key: tree.map(torch.zeros_like, params) for key in ("mean", "square")}

    def update(grads, opt_state, params, rate):
        given = grads, opt_state["mean"], opt_state["square"]
        grad, mean, square = (tree.to_vector(part, like=rate, order=params) for part in given)
        steps, beta1, beta2 = opt_state["steps"] + 1, opt_state["beta1"], opt_state["beta2"]
        mean = beta1 * mean + (1 - beta1) * grad
        square = beta2 * square + (1 - beta2) * grad**2
        root = (square * (1 / (1 - beta2**steps))).sqrt() + opt_state["eps"]
        move = mean / root * (-rate / (1 - beta1**steps)) - rate * opt_state["weight_decay"] * decayed(params, rate)
        new = {"steps": steps, "mean": tree.from_vector(mean, params), "square": tree.from_vector(square, params)}
        return tree.from_vector(move, params), opt_state | new

    return Optimiser(init, update, takes_vectors=decay_mask is None)


def adamw_by_name(
    *,
    betas: tuple[_Share, _Share] = (0.9, 0.999),
    eps: Annotated[float, Interval(gt=0)] = 1e-8,
    weight_decay: float = 0.0,
    no_decay: tuple[str, ...] = (),
) -> Optimiser:
    """Returns `adamw` with options that a configuration can write.

    no_decay: patterns of the paths that are not decayed, as a shell has them: "*.bias", "*.norm*"; none: all are
    decayed.
    """

    return adamw(betas=betas, eps=eps, weight_decay=weight_decay, decay_mask=_mask(no_decay))


def sgd_by_name(
    *, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False, no_decay: tuple[str, ...] = ()
) -> Optimiser:
    """Returns `sgd` with options that a configuration can write. no_decay: as for `adamw_by_name`."""
    return sgd(momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, decay_mask=_mask(no_decay))


def _mask(no_decay: tuple[str, ...]) -> DecayMask | None:
    """Returns the mask that leaves out the paths with one of these patterns; None without patterns."""
    return (lambda path: not any(fnmatchcase(path, pattern) for pattern in no_decay)) if no_decay else None


TABLE: dict[str, Callable[..., Optimiser]] = {"sgd": sgd_by_name, "adamw": adamw_by_name}


def apply_updates(params: tree.Tree, updates: tree.Tree) -> tree.Tree:
    """Returns params + updates, leaf by leaf: a new tree like params."""
    return tree.map(torch.add, params, updates)


def _decayed(decay_mask: DecayMask | None) -> Callable[[tree.Tree, torch.Tensor], torch.Tensor]:
    """Returns the function (params, like) -> params as a vector, 0 for those that are not decayed.

    Without a mask all are. like: see `tree.to_vector`.
    torch.compile doesn't look into a mask, since it can't trace what one may do, such as matching patterns.
    """
    if decay_mask is None:
        return lambda params, like: tree.to_vector(params, like=like)

    # Here and not as a decorator of the module's: it imports torch.compile's parts, which takes a second.
    @torch.compiler.assume_constant_result
    def left_out(paths: tuple[str, ...]) -> list[bool]:
        return [not decay_mask(path) for path in paths]

    def decayed(params, like):
        paths = tree.to_paths(params)
        pairs = zip(paths.values(), left_out(tuple(paths)), strict=True)
        parts = [torch.zeros_like(leaf) if out else leaf for leaf, out in pairs]
        return tree.to_vector(parts, like=like)

    return decayed


def cosine(rate: float, *, epochs: int, warmup_epochs: int = 0) -> Schedule:
    """Returns the function epoch -> rate that falls from `rate` to 0 on half a cosine.

    epochs: how many there are; the rate would be 0 in epoch `epochs`, counted from 0. warmup_epochs: how many of them
    rise linearly to `rate` first, after which the cosine begins; 0: none. The rate changes once an epoch, as torch's
    CosineAnnealingLR stepped by epochs does. Source: Loshchilov and Hutter 2017, arXiv:1608.03983.
    """

    def schedule(epoch: int) -> float:
        progress = (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1)
        return rate * 0.5 * (1.0 + math.cos(math.pi * progress))

    return _after_warmup(schedule, rate, warmup_epochs)


def milestones(rate: float, *, at: Sequence[int], factor: float, warmup_epochs: int = 0) -> Schedule:
    """Returns the function epoch -> rate that multiplies `rate` by `factor` at the start of each epoch in `at`.

    at: counted from 0. warmup_epochs: how many epochs rise linearly to `rate` first, instead; 0: none.
    """
    ascending = sorted(at)
    return _after_warmup(lambda epoch: rate * factor ** bisect.bisect_right(ascending, epoch), rate, warmup_epochs)


def constant(rate: float, *, warmup_epochs: int = 0) -> Schedule:
    """Returns the function epoch -> rate that is always `rate`, after a linear rise over warmup_epochs epochs."""
    return _after_warmup(lambda epoch: rate, rate, warmup_epochs)


def _after_warmup(schedule: Schedule, rate: float, warmup_epochs: int) -> Schedule:
    """Returns the schedule with a linear rise in front: epoch e < warmup_epochs has rate * (e + 1) / warmup_epochs."""
    return lambda epoch: rate * (epoch + 1) / warmup_epochs if epoch < warmup_epochs else schedule(epoch)
