"""What becomes of a gradient before and after the optimiser: penalty, rows that don't move."""

import torch

from cil_func import optim, tree
from cil_func.errors import OwnCodeError
from cil_func.methods.base import Stage, Track, nothing
from cil_func.methods.checks import like
from cil_func.networks.outputs import Classes


def penalised(
    stage: Stage, grads: torch.Tensor, chosen: tree.Tree, frozen: tree.Tree, extra: tree.Tree, classes: Classes
) -> torch.Tensor:
    """Returns the gradient of the loss plus the gradient of the stage's penalty.

    grads: of the loss, as a vector of the numbers of `chosen`, the parameters that are trained; frozen: the others.
    """
    penalty = stage.penalty
    if penalty is None:
        return grads
    of_penalty = torch.func.grad(lambda chosen: penalty(tree.merge(chosen, frozen), extra, classes))(chosen)
    return grads + tree.to_vector(of_penalty, like=grads)


def moving(stage: Stage, state: tree.Tree) -> tree.Tree:
    """Returns the part of the state that isn't frozen. Without frozen parts it is not split, to be traced faster."""
    return state if stage.frozen is nothing else tree.partition(state, stage.frozen)[1]


def updates(
    stage: Stage,
    optimiser: optim.Optimiser,
    grads: torch.Tensor,
    weights: torch.Tensor,
    chosen: tree.Tree,
    opt_state: tree.Tree,
    classes: Classes,
    rate: torch.Tensor,
) -> tuple[torch.Tensor, tree.Tree, tree.Tree]:
    """Returns (updates, the optimiser's state before, and after): of the stage's step, what to add to the weights.

    grads, weights, updates: as vectors of the numbers of `chosen`, the parameters that are trained. opt_state: of the
    optimiser, for `chosen`. The states that are returned have vectors in place of trees if the optimiser takes them.
    """
    if optimiser.takes_vectors:
        before = {key: _vector(part, chosen, grads) for key, part in opt_state.items()}
        moves, after = optimiser.update(grads, before, weights, rate)
    else:
        before = opt_state
        moves, after = optimiser.update(tree.from_vector(grads, chosen), before, chosen, rate)
        moves = _vector(moves, chosen, grads)
    return of_new_rows(moves, chosen, classes) if stage.rows_trained == "new" else moves, before, after


def tracked(
    track: Track, extra: tree.Tree, step: tuple[tree.Tree, tree.Tree, tree.Tree], classes: Classes
) -> tree.Tree:
    """Returns what a `Track` makes of `extra`, in the same dtypes. step: (params before, params after, gradient).

    Raises OwnCodeError unless it has the same parts of the same shapes, which torch.where would broadcast.
    """
    found = track(extra, *step, classes)
    try:
        return tree.map(lambda old, new: new if new is old else like(new, old, "track returned"), extra, found)
    except ValueError as error:
        text = str(error).removeprefix("map: ")
        raise OwnCodeError(f"method.name: track returned other parts than it was given: {text}") from None


def _vector(part: tree.Tree, chosen: tree.Tree, like: torch.Tensor) -> torch.Tensor:
    """Returns a tree like `chosen` as a vector in the order of `chosen`; a 0-d tensor as it is."""
    return part if isinstance(part, torch.Tensor) else tree.to_vector(part, like=like, order=chosen)


def restored(opt_state: tree.Tree, given: tree.Tree, chosen: tree.Tree) -> tree.Tree:
    """Returns an optimiser's state of `updates` with trees like `chosen` where `given` has trees."""
    trees = {key for key, part in given.items() if not isinstance(part, torch.Tensor)}
    return {key: tree.from_vector(part, chosen) if key in trees else part for key, part in opt_state.items()}


def of_new_rows(updates: torch.Tensor, chosen: tree.Tree, classes: Classes) -> torch.Tensor:
    """Returns the updates, with 0 for the classifier's rows of all classes but this phase's new ones.

    updates: as a vector of the numbers of `chosen`, the parameters that are trained.
    """
    if "classifier" not in chosen:
        return updates

    def masked(leaf: torch.Tensor) -> torch.Tensor:
        return torch.where(classes.new.view(-1, *(1,) * (leaf.ndim - 1)), leaf, 0.0)

    parts = tree.from_vector(updates, chosen)
    return tree.to_vector({**parts, "classifier": tree.map(masked, parts["classifier"])})
