"""A method of one's own, in a file outside the package: replay whose logits are adjusted by the phase's class counts.

    python train.py --set method.name=tests/own/adjusted_replay.py:make --set method.options.tau=1.0

Old classes have a handful of exemplars and new ones hundreds of images, so plain cross-entropy prefers new classes.
Adding tau * log(share of a class among the training images) to its logit while training takes that preference away.
Source: Menon et al. 2021 (arXiv:2007.07314), equation 10.
"""

import torch

from cil_func import losses
from cil_func.methods import Method


def make(options, tau: float = 1.0) -> Method:
    """Returns the method. tau: how strongly logits are adjusted; 0 is plain replay."""

    def loss(student, teacher, targets, classes):
        shares = classes.counts.clamp(min=1) / classes.counts.sum()                # (C,)
        adjusted = student.logits + tau * torch.log(shares)
        return losses.cross_entropy(adjusted, targets.labels, mask=classes.seen, rows=targets.rows)

    return Method(name="adjusted-replay", loss=loss, uses_memory=True)
