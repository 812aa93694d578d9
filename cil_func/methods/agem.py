"""A-GEM, averaged gradient episodic memory (Chaudhry et al. 2019, arXiv:1812.00420).

A step must not raise the mean loss of old images: beside each batch come exemplars of all old classes, and a gradient
that points against theirs loses the part that does.
"""

from dataclasses import replace

import torch

from cil_func import losses
from cil_func.methods import finetune
from cil_func.methods.base import Method, Options, Replay
from cil_func.methods.ranges import Number


def make(options: Options, *, images: Number = 0) -> Method:
    """Returns A-GEM: fine-tuning on the new images, with projected gradients.

    images: how many exemplars are drawn for a step; 0: as many as a batch has. Both cross-entropies are over all
    classes seen. Weight decay and momentum follow after the projection; the authors use neither.
    """

    def loss(student, stored, targets, classes, group):
        return losses.cross_entropy(
            student.logits, targets.labels, label_smoothing=options.label_smoothing, mask=classes.seen,
            rows=targets.rows,
        )  # fmt: skip

    replay = Replay(loss, project, images=images)
    return replace(finetune.make(options), name="agem", uses_memory=True, rows="arrived", replay=replay)


def project(gradient: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Returns g - (g r / r r) r if g r < 0, else g (equation 11). A `methods.functions.Combine`.

    gradient: g, (V,). references: r alone, (1, V); 0 where there is no exemplar, which leaves g as it is.
    """
    (reference,) = references
    along = (gradient * reference).sum()
    length = (reference * reference).sum()
    opposed = along < 0
    return torch.where(opposed, gradient - along / torch.where(opposed, length, 1.0) * reference, gradient)
