"""DER, dynamically expandable representation (Yan et al. 2021, arXiv:2103.16788), without pruning.

Each phase adds a backbone, a copy of the last one; the earlier ones are frozen, and the head sees the features of all.
An auxiliary head on the new features alone tells the new classes apart, and from all old ones as one class. Rows are
aligned at the end of a phase (published as DER without masks). No distillation.
"""

from dataclasses import replace

import torch

from cil_func import losses
from cil_func.methods import replay, wa
from cil_func.methods.base import Method, Options
from cil_func.methods.ranges import Weight
from cil_func.networks import auxiliary as auxiliary_head


def make(options: Options, *, auxiliary: Weight = 1.0) -> Method:
    """Returns DER: replay on a network to which each phase adds a backbone.

    auxiliary: the weight of the auxiliary head's cross-entropy (equation 8). options.align: whether rows are aligned at
    the end of a phase.
    """
    base = replay.make(options)

    def loss(student, teacher, targets, classes):
        other = losses.cross_entropy(
            student.aux["new"], auxiliary_labels(targets.labels, classes), mask=known(classes), rows=targets.rows
        )
        return base.loss(student, None, targets, classes) + auxiliary * classes.old.any().to(other.dtype) * other

    method = replace(base, name="der", loss=loss, head=auxiliary_head.HEAD, grow="backbone")
    return replace(method, finish=wa.align) if options.align else method


def auxiliary_labels(labels: torch.Tensor, classes) -> torch.Tensor:
    """Returns the auxiliary head's labels (B,) of a batch: a new class keeps its label, any old class has the label C.

    labels: (B,) int64, 0 to C - 1.
    """
    return torch.where(classes.old[labels], len(classes.old), labels)


def known(classes) -> torch.Tensor:
    """Returns which outputs of the auxiliary head take part, (C + 1,) bool.

    They are those of the new classes, and the last one if any class is old.
    """
    return torch.cat([classes.new, classes.old.any()[None]])
