"""Losses that compare images with each other: within norm groups, so that the number of processes changes nothing."""

import torch

from cil_func import tree
from cil_func.methods.base import Targets
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
            part = tree.map(lambda leaf, start=start: leaf[start : start + size], (student, teacher, targets))
            count = torch.ones_like(images) * size if targets.rows is None else part[2].rows.sum(dtype=images.dtype)
            total, images = total + count * loss(*part, classes), images + count
        return total / images.clamp(min=1)

    return of_batch
