"""GEM, gradient episodic memory (Lopez-Paz and Ranzato 2017, arXiv:1706.08840).

A step must not raise the loss on any earlier phase's exemplars: beside each batch comes a group of exemplars for each
of these phases, and the gradient is moved as little as possible until it points against none of theirs (equation 11).
"""

from dataclasses import replace
from functools import partial
from typing import Literal

import torch

from cil_func import losses
from cil_func.methods import dual, finetune, lwf
from cil_func.methods.base import Method, Options, Replay
from cil_func.methods.ranges import Count, Positive, Weight


def make(
    options: Options, *, margin: Weight = 0.5, ridge: Positive = 1e-3, images: Count = 256,
    columns: Literal["own", "seen"] = "own",
) -> Method:  # fmt: skip
    """Returns GEM: cross-entropy on the new images, with projected gradients.

    margin, ridge: see `project`; the defaults are the authors'. PyCIL's GEM has neither: margin 0, ridge close to 0.
    images: how many exemplars of a phase are drawn for a step, all of them if it has fewer: the authors keep 256 a
    phase and take all. columns: the cross-entropies are over each phase's "own" classes, as in the paper, whose phases
    have heads of their own, and in PyCIL; or over all that are "seen", as in mammoth.
    Weight decay and momentum follow after the projection; the authors use neither.
    """

    def loss(student, stored, targets, classes, group):
        mask = classes.phase == group if columns == "own" else classes.seen
        return losses.cross_entropy(
            student.logits, targets.labels, label_smoothing=options.label_smoothing, mask=mask, rows=targets.rows
        )

    if columns == "own":
        base = lwf.over_new_classes(options, way_out='method.options.columns = "seen"')
    else:
        base = finetune.make(options)
    replay = Replay(loss, partial(project, margin=margin, ridge=ridge), groups="phases", images=images)
    return replace(base, name="gem", uses_memory=True, rows="arrived", replay=replay)


def project(gradient: torch.Tensor, references: torch.Tensor, *, margin: float, ridge: float) -> torch.Tensor:
    """Returns g + G' v if an entry of G g is below 0, else g. A `methods.functions.Combine`.

    gradient: g, (V,). references: G, (P, V), with rows of 0 for phases without exemplars, which change nothing.
    v, (P,): makes v' (G G' + ridge I) v / 2 + (G g)' v least, with no entry below `margin`.
    """
    along = references @ gradient  # (P,)
    matrix = references @ references.T + ridge * torch.eye(len(along), dtype=along.dtype, device=along.device)
    weights = dual.minimum(matrix, along, lower=margin)
    return torch.where((along < 0).any(), gradient + references.T @ weights, gradient)
