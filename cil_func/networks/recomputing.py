"""Activation checkpointing: the backward pass computes a part of a network again instead of keeping its activations.

Source: Chen et al. 2016 (arXiv:1604.06174). `torch.utils.checkpoint` does the same by hooks on saved tensors, which
`torch.func` refuses. torch.compile can't trace what is here.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from cil_func import tree

if TYPE_CHECKING:
    from cil_func.networks.backbones import Backbone


def recompute(net: "Backbone") -> "Backbone":
    """Returns the backbone with each of its blocks computed again in the backward pass. net: one that `recomputes`."""

    def apply(params, state, images, *, train, **more: Any):
        return net.apply(params, state, images, train=train, **more, **({"recompute": True} if train else {}))

    return replace(net, apply=apply)


def recomputed(part: Callable[..., tuple[tree.Tree, tree.Tree]], *given: Any) -> tuple[Any, tree.Tree]:
    """Returns part(*given), of which nothing but the tensors in `given` is kept for the backward pass.

    part(*given) -> (y, others): what is differentiated, for most a tensor, and what isn't, such as new statistics; two
    trees of tensors. given: trees whose leaves may also be no tensors. All tensors that `part` uses come from them.
    The backward pass runs `part` once more: under the same autocast, with the same draws from torch's global
    generators, and on the same tensors. So nobody may change these in between. There is no second derivative, and no
    vmap over the call.
    """
    if torch.compiler.is_dynamo_compiling():
        raise ValueError("recompute: torch.compile can't trace it; call the function as it is, or without recompute")
    tensors, put = _tensors_of(given)
    twice = _Twice(lambda *tensors: part(*put(tensors)), tensors[0].device)
    return tree.unflatten(list(_Recomputed.apply(twice, *tensors)), twice.structure)


def _tensors_of(given: tree.Tree) -> tuple[list[torch.Tensor], Callable[[Sequence[torch.Tensor]], tree.Tree]]:
    """Returns (the tensors in a tree, whose leaves may also be no tensors; a function that puts others in their place).

    The function takes as many tensors in the same order and returns the tree with these, and with its other leaves.
    """

    def put(tensors: Sequence[torch.Tensor]) -> tree.Tree:
        others = iter(tensors)
        return tree.map(lambda leaf: next(others) if isinstance(leaf, torch.Tensor) else leaf, given)

    given = tree.map(lambda leaf: leaf, given)  # a caller may change its lists afterwards, as DenseNet does
    return [leaf for leaf in tree.leaves(given) if isinstance(leaf, torch.Tensor)], put


class _Twice:
    """A function (*tensors) -> (y, others) that is called in the forward pass and once more in the backward pass."""

    def __init__(self, function: Callable[..., tuple[tree.Tree, tree.Tree]], device: torch.device) -> None:
        self.function, self.around, self.structure = function, _surroundings(device), None

    def __call__(self, *tensors: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        y, others = self.function(*tensors)
        self.structure = tree.map(lambda leaf: 0, (y, others))
        return tree.leaves(y), tree.leaves(others)


class _Recomputed(torch.autograd.Function):
    """(a `_Twice`, *tensors) -> the leaves of y and of the others."""

    @staticmethod
    def forward(twice, *tensors):
        y, others = twice(*tensors)
        # autograd takes an input that comes back as it is for a change of it in place
        return tuple(leaf.clone() if any(leaf is each for each in tensors) else leaf for leaf in (*y, *others))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.twice, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.mark_non_differentiable(*output[len(tree.leaves(ctx.twice.structure[0])) :])

    @staticmethod
    @once_differentiable  # torch.func.grad asks for a graph of the backward pass, which would keep all of it
    def backward(ctx, *grads):
        tensors = ctx.saved_tensors
        moving = [at for at, needed in enumerate(ctx.needs_input_grad[1:]) if needed]

        def again(*chosen):
            all_of_them = list(tensors)
            for at, leaf in zip(moving, chosen, strict=True):
                all_of_them[at] = leaf
            return ctx.twice(*all_of_them)[0]

        with ctx.twice.around():
            y, pull = torch.func.vjp(again, *(tensors[at] for at in moving))[:2]
        found = dict(zip(moving, pull(list(grads[: len(y)])), strict=True))
        return None, *(found.get(at) for at in range(len(tensors)))


def _surroundings(device: torch.device) -> Callable[[], Any]:
    """Returns a function whose context manager brings back the present autocast and random state of a device."""
    kind = device.type
    known = torch.amp.is_autocast_available(kind)
    lower, dtype = (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) if known else (False, None)
    on_gpu = kind == "cuda"
    draws = torch.cuda.get_rng_state(device) if on_gpu else torch.get_rng_state()

    @contextmanager
    def around() -> Iterator[None]:
        with torch.random.fork_rng(devices=[device] if on_gpu else []):
            if on_gpu:
                torch.cuda.set_rng_state(draws, device)
            else:
                torch.set_rng_state(draws)
            with torch.autocast(kind if known else "cpu", dtype=dtype, enabled=lower):
                yield

    return around
