"""A second trained backbone beside the one whose features the head is given, as a part "beside" of its trees.

    params["backbone"] = {name: {..., "beside": {...}}}                    and so has state["backbone"]

It is of the same kind, drawn by a key of its own. `run` runs it wherever the trees have it: in training, and as the
teacher. For results, predictions and in frozen backbones, `alone` leaves it out.
"""

from typing import Protocol

import torch

from cil_func import tree
from cil_func.tree import Tree

KEY = "beside"


class RunOne(Protocol):
    """(params, state) -> (features (B, D), aux, new state) of one backbone for some images, see `Network.run`."""

    def __call__(self, params: Tree, state: Tree, /) -> tuple[torch.Tensor, dict[str, torch.Tensor], Tree]: ...


def joined(main: Tree, second: Tree) -> Tree:
    """Returns a backbone's weights, or its buffers, with those of a second one beside them."""
    return {**main, KEY: second}


def alone(backbone: Tree) -> Tree:
    """Returns params["backbone"] or state["backbone"] without the second backbone. Tensors are shared."""
    return {name: _first(part) for name, part in backbone.items()}


def second(backbone: Tree) -> Tree:
    """Returns the second backbone of params["backbone"] or state["backbone"], in their form. Tensors are shared."""
    return {name: part[KEY] for name, part in backbone.items()}


def blended(backbone: Tree, share: float) -> Tree:
    """Returns params["backbone"] with share * weights + (1 - share) * those of the second one, which stays as it is."""
    ((name, other),) = second(backbone).items()
    mixed = tree.map(lambda own, its: share * own + (1 - share) * its, alone(backbone)[name], other)
    return {name: joined(mixed, other)}


def run(run_one: RunOne, params: Tree, state: Tree) -> tuple[torch.Tensor, dict[str, torch.Tensor], Tree]:
    """Runs a backbone, and the second one if the trees have it. Returns (features (B, D), aux, new state) of the first.

    run_one: runs one backbone. params, state: as `Network.run` has them.
    aux then also has what the taps return of the second backbone, with "beside." before their names, and its features
    (B, D) as "beside".
    """
    ((name, part),) = params.items()
    if _first(part) is part:
        return run_one(params, state)
    buffers = state["backbone"]
    features, aux, moved = run_one(alone(params), {"backbone": alone(buffers)})
    others, of_others, moved_others = run_one(second(params), {"backbone": second(buffers)})
    aux = {**aux, **{f"{KEY}.{key}": leaf for key, leaf in of_others.items()}, KEY: others}
    return features, aux, {"backbone": {name: joined(moved["backbone"][name], moved_others["backbone"][name])}}


def _first(part: Tree) -> Tree:
    """Returns a backbone's weights, or its buffers, without those of a second one; `part` itself if there are none."""
    if not (isinstance(part, dict) and KEY in part):
        return part
    return {key: leaf for key, leaf in part.items() if key != KEY}
