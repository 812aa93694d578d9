"""COIL, co-transport for class-incremental learning (Zhou, Ye and Zhan 2021, arXiv:2107.12654).

Replay with distillation and a cosine classifier whose rows are transported between old and new classes
(`networks.transport`). New rows begin as the old ones, transported. With K(t, s) = -sum_c softmax(t / 2)_c log
softmax(s / 2)_c, e the epoch of E, and f for a feature, the loss is that of distillation, and beside it

    transport K(cos(f, prospective rows), s) over new classes           in epoch 0
    transport (e / E)^2 K(t, cos(f, retrospective rows)) over old classes           later

with s the student's logits and t the teacher's. Constants and the epochs' weights: the authors' code. It reads all
images of old classes for the plan, which are not there any more; here it is made of exemplars. It also renews the plan
each 30 steps; here a phase has one, of its first model. As there, the prospective targets are not detached from f.
"""

from dataclasses import replace
from functools import partial

import torch

from cil_func import losses
from cil_func.methods import distillation, replay
from cil_func.methods.base import Method, Options
from cil_func.methods.ranges import Order, Positive, Weight
from cil_func.networks import transport as transported


def make(options: Options, *, transport: Weight = 1e-3, entropy: Positive = 0.464, norm: Order = 3.0) -> Method:
    """Returns COIL; phase 0 has the cross-entropy alone.

    transport: the weight of both losses of transported rows. entropy: of the plan, see `networks.transport.sinkhorn`;
    above 0. norm: the order of the norm that measures how far two classes are from each other, 1 or more.
    """
    base = distillation.add(replay.make(options), options)

    def loss(student, teacher, targets, classes):
        over = partial(losses.distillation, temperature=options.temperature, rows=targets.rows)
        ahead = over(student.logits, student.aux["prospective"], mask=classes.new)
        back = over(student.aux["retrospective"], teacher.logits, mask=classes.old)
        carried = torch.where(classes.progress == 0, ahead, classes.progress.square() * back)
        return base.loss(student, teacher, targets, classes) + transport * (classes.old.any() * carried)

    return replace(
        base, name="coil", loss=loss, head=transported.HEAD, final_relu=False, imprints="seen",
        imprint=partial(transported.imprint, entropy=entropy, norm=norm),
        trainable=lambda path: path not in transported.FIXED,
    )  # fmt: skip
