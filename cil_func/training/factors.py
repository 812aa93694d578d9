"""Learning rates of parameters by their paths: an optimiser whose updates are multiplied by a factor each."""

from typing import Protocol

import torch

from cil_func import optim, tree


class FactorOf(Protocol):
    """path -> the factor of the learning rate for the parameter at this path."""

    def __call__(self, path: str, /) -> float: ...


def scaled(optimiser: optim.Optimiser, factor_of: FactorOf) -> optim.Optimiser:
    """Returns the optimiser with rate * factor_of(path) in place of the rate, for each parameter.

    It multiplies what `optim.Update` returns, so the optimiser's updates have to be proportional to the rate, as those
    of `optim.sgd` and `optim.adamw` are. params: a tree of nested dicts.
    """

    @torch.compiler.assume_constant_result  # which it can't trace
    def factors(paths: tuple[str, ...]) -> list[float]:
        return [factor_of(path) for path in paths]

    def update(grads, opt_state, params, rate):
        updates, opt_state = optimiser.update(grads, opt_state, params, rate)
        pairs = zip(tree.leaves(updates), factors(tuple(tree.to_paths(updates))), strict=True)
        return tree.unflatten([leaf * factor for leaf, factor in pairs], updates), opt_state

    return optim.Optimiser(optimiser.init, update)
