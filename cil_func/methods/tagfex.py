"""TagFex, task-agnostic guided feature expansion (Zheng et al. 2025, arXiv:2503.00823): DER and a net without labels.

Beside DER's backbones a second one learns in all phases, by contrast of two views of each image. It guides the newest
backbone: that starts near it, and is taught by a head that sees the maps of both (`networks.task_agnostic`: z, p, s).

    loss = CE + a CE_aux + c [(1 - l) InfoNCE(z, z) + k l InfoNCE(p, z')] + CE_new(s) + g w KL(s || logits)

CE, CE_aux: of DER. l: number of old classes / number of classes seen. z': z of the last phase's model. CE_new, KL: over
the phase's classes, on their images alone; KL by softened predictions, its gradient stops at s. g: 1 where CE_new(s) is
below CE, else 0. In phase 0 it is CE + c InfoNCE(z, z). Images are compared, and g is found, within a norm group.
DER's part alone predicts. The authors leave the last, smaller batch of an epoch out.
"""

from dataclasses import replace
from functools import partial
from typing import Annotated

from annotated_types import Interval

from cil_func import losses
from cil_func.methods import contrast as contrastive
from cil_func.methods import der, replay
from cil_func.methods.base import Method, Options
from cil_func.methods.ranges import Count, Positive, Weight
from cil_func.networks import task_agnostic


def make(
    options: Options,
    *,
    auxiliary: Weight = 2.0,
    contrast: Weight = 1.0,
    kept: Weight = 2.0,
    transfer: Weight = 1.0,
    sharpness: Positive = 0.2,
    blend: Annotated[float, Interval(ge=0, le=1)] = 0.95,
    hidden: Count = 512,
    width: Count = 128,
    heads: Count = 8,
) -> Method:
    """Returns TagFex. options.temperature: of KL. options.align: whether rows are aligned at the end of a phase.

    auxiliary, contrast, kept, transfer: a, c, k, w. sharpness: the temperature of InfoNCE. blend: a new backbone starts
    from blend * newest + (1 - blend) * second one. hidden, width: of the projector's layers; those of the authors for
    a ResNet-32, for a ResNet-18 they are 2048 and 1024. heads: of the attention.
    """
    base, plain = der.make(options, auxiliary=auxiliary), replay.make(options)
    compare = partial(contrastive.info_nce, temperature=sharpness)

    def loss(student, teacher, targets, classes):
        z, p, s = (student.aux[name] for name in ("z", "p", "s"))
        own = plain.loss(student, None, targets, classes)
        num_old, num_seen = (known.sum(dtype=own.dtype) for known in (classes.old, classes.seen))
        share, known = num_old / num_seen, num_old.sign()
        new = classes.new[targets.labels] if targets.rows is None else classes.new[targets.labels] & targets.rows
        of_new = losses.cross_entropy(s, targets.labels, mask=classes.new, rows=new)
        taught = losses.distillation(
            student.logits, s.detach(), temperature=options.temperature, mask=classes.new, rows=new
        )
        gate = (of_new < own).to(own.dtype)
        return (
            base.loss(student, None, targets, classes)
            + contrast * (1 - share) * compare(z, z, rows=targets.rows)
            + contrast * kept * share * compare(p, teacher.aux["z"], rows=targets.rows)
            + known * (of_new + transfer * gate * taught)
        )

    return replace(
        base, name="tagfex", loss=loss, uses_teacher=True, views=2, beside=True, taps=task_agnostic.last_map,
        head=task_agnostic.head(hidden=hidden, width=width, heads=heads),
        begin=partial(task_agnostic.begin, blend=blend), trainable=lambda path: not path.startswith("head.old."),
    )  # fmt: skip
