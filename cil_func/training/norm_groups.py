"""Losses that compare images with each other: within norm groups, so that the number of processes changes nothing."""

from functools import partial

import torch

from cil_func import tree
from cil_func.methods.base import Targets
from cil_func.methods.checks import scalar
from cil_func.methods.functions import Loss
from cil_func.networks.outputs import Classes, Outputs


def by_group(loss: Loss, size: int) -> Loss:
    """Returns the loss that is the mean over norm groups, weighted by their images, of what `loss` says of each alone.

    size: how many consecutive rows of a batch are a norm group, of which a larger batch has whole ones; 0: all.
    """

    def of_batch(student: Outputs, teacher: Outputs | None, targets: Targets, classes: Classes) -> torch.Tensor:
        if not 0 < size < len(targets.labels):
            return loss(student, teacher, targets, classes)
        total = images = torch.zeros_like(student.logits[0, 0])
        for start in range(0, len(targets.labels), size):
            cut = partial(tree.map, lambda leaf, start=start: leaf[start : start + size])
            own: Targets = cut(targets)
            count = torch.ones_like(images) * size if own.rows is None else own.rows.sum(dtype=images.dtype)
            total = total + count * scalar(loss(cut(student), cut(teacher), own, classes), images)
            images = images + count
        return total / images.clamp(min=1)

    return of_batch


def rows_of_part(rows: int, accumulate: int, *, unit: int) -> int:
    """Returns how many rows of a batch are computed at a time if it is cut into at most `accumulate` parts.

    unit: what isn't cut: a norm group, or the views of an image.
    """
    return -(-rows // (accumulate * unit)) * unit
