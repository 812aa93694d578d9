"""DER++, dark experience replay (Buzzega et al. 2020, arXiv:2004.07211): replay of exemplars and of their logits.

Beside each batch of new images come two groups of exemplars: the first must keep its stored logits, the second must
still be classified rightly (equation 6).
"""

from dataclasses import replace

import torch

from cil_func import losses
from cil_func.methods import finetune
from cil_func.methods.base import Method, Options, Replay
from cil_func.methods.ranges import Number, Weight


def make(options: Options, *, alpha: Weight = 0.3, beta: Weight = 0.5, images: Number = 0) -> Method:
    """Returns DER++: fine-tuning on the new images, and the losses of exemplars beside each batch.

    alpha: the weight of the mean squared difference of logits and stored logits. beta: the weight of the second group's
    cross-entropy; 0: there is no second group, which is DER of the same paper. images: of a group; 0: as many as a
    batch has. The defaults are the authors' for CIFAR-100 with 500 exemplars.
    The authors choose exemplars at random from a stream and store the logits of that moment. Here they are chosen once,
    at the end of their phase, and their logits are the finished model's. Logits of classes that came later have no
    stored number; their difference counts as 0 in the mean, which is over the classes seen. The authors' networks have
    all of the run's logits from the start, and their mean is over these.
    """

    def loss(student, stored, targets, classes, group):
        ours = known(student.logits, targets.labels, classes)
        squares = (ours - known(stored, targets.labels, classes)).square().sum(1) / classes.seen.sum()  # (B,)
        rows = torch.ones_like(squares, dtype=torch.bool) if targets.rows is None else targets.rows
        difference = torch.where(rows, squares, 0.0).sum() / rows.sum().clamp(min=1)
        right = losses.cross_entropy(
            student.logits, targets.labels, label_smoothing=options.label_smoothing, mask=classes.seen,
            rows=targets.rows,
        )  # fmt: skip
        return torch.where(group == 0, alpha * difference, beta * right)

    replay = Replay(loss, add, groups=2 if beta else 1, images=images, stores=True)
    return replace(finetune.make(options), name="derpp", uses_memory=True, rows="arrived", replay=replay)


def known(logits: torch.Tensor, labels: torch.Tensor, classes) -> torch.Tensor:
    """Returns logits (B, C) with 0 for classes that came in later phases than the image's own class, labels (B,)."""
    return torch.where(classes.phase <= classes.phase[labels][:, None], logits, 0.0)


def add(gradient: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Returns the gradient of the sum of all losses. A `methods.functions.Combine`."""
    return gradient + references.sum(0)
