"""What becomes of a gradient before and after the optimiser: penalty, rows that don't move."""

import torch

from cil_func import tree
from cil_func.methods.base import Stage, nothing
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
