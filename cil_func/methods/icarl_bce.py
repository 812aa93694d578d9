"""iCaRL as its authors train it: one sigmoid a class (Rebuffi et al. 2017, arXiv:1611.07725, algorithm 3).

    loss = mean over images of  -sum_c q_c log g_c + (1 - q_c) log(1 - g_c),   g = sigmoid(logits)

q_c is 1 for an image's class and 0 for other new classes; for an old class it is the last model's sigmoid, on every
image: an exemplar's own label is not used. `icarl` has the loss of the published comparisons instead.
"""

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F

from cil_func import losses
from cil_func.methods import replay
from cil_func.methods.base import Method, Options


def make(options: Options, *, outputs: Literal["sum", "seen", "run"] = "sum") -> Method:
    """Returns iCaRL with sigmoids, which predicts by the nearest of the exemplars' class means.

    outputs: which outputs c count, and how. "sum": those of the classes seen, added up, as in the paper. "seen": their
    mean, as the authors' code for ImageNet has it. "run": the mean over all of the run's classes, of which those to
    come have q = 0, as their code for CIFAR-100 has it; a learning rate of 2 there is one of 0.02 for a sum. Here the
    rows of classes to come start each phase at 0; there they are drawn once.
    No option of the [method] table is used.
    """

    def loss(student, teacher, targets, classes):
        wanted = F.one_hot(targets.labels, len(classes.seen)).to(student.logits.dtype)  # (B, C)
        if teacher is not None:
            wanted = torch.where(classes.old, teacher.logits.sigmoid(), wanted)
        counted = torch.ones_like(classes.seen) if outputs == "run" else classes.seen
        total = losses.binary_cross_entropy(student.logits, wanted, mask=counted, rows=targets.rows)
        return total if outputs == "sum" else total / counted.sum()

    return replace(replay.make(options), name="icarl-bce", loss=loss, predict="nme", uses_teacher=True)
