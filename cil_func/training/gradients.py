"""What becomes of a gradient before and after the optimiser: penalty, rows that don't move, norms."""

import torch

from cil_func import tree
from cil_func.methods.base import Stage, nothing
from cil_func.networks.outputs import Classes


def penalised(
    stage: Stage, grads: tree.Tree, chosen: tree.Tree, frozen: tree.Tree, extra: tree.Tree, classes: Classes
) -> tree.Tree:
    """Returns the gradient of the loss plus the gradient of the stage's penalty.

    grads: of the loss, by `chosen`, the parameters that are trained; frozen: the others.
    """
    penalty = stage.penalty
    if penalty is None:
        return grads
    of_penalty = torch.func.grad(lambda chosen: penalty(tree.merge(chosen, frozen), extra, classes))(chosen)
    return tree.map(torch.add, grads, of_penalty)


def moving(stage: Stage, state: tree.Tree) -> tree.Tree:
    """Returns the part of the state that isn't frozen. Without frozen parts it is not split, to be traced faster."""
    return state if stage.frozen is nothing else tree.partition(state, stage.frozen)[1]


def of_new_rows(updates: tree.Tree, classes: Classes) -> tree.Tree:
    """Returns the updates, with 0 for the classifier's rows of all classes but this phase's new ones."""
    if "classifier" not in updates:
        return updates

    def masked(leaf: torch.Tensor) -> torch.Tensor:
        return torch.where(classes.new.view(-1, *(1,) * (leaf.ndim - 1)), leaf, 0.0)

    return {**updates, "classifier": tree.map(masked, updates["classifier"])}


def norm(part: tree.Tree, like: torch.Tensor) -> torch.Tensor:
    """Returns the L2 norm of all numbers of a tree, 0 for an empty one, which has the dtype and device of `like`."""
    norms = [torch.linalg.vector_norm(leaf) for leaf in tree.leaves(part)]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros_like(like)
