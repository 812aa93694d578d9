"""LwF, learning without forgetting (Li and Hoiem 2016, arXiv:1606.09282): distillation and no memory."""

from dataclasses import replace

from cil_func import losses
from cil_func.methods import distill, finetune
from cil_func.methods.base import Method, Options


def make(options: Options) -> Method:
    """Cross-entropy over the new classes alone, as each task has its own head there, and distillation.

    Over all classes, with no old image to hold them, cross-entropy would push every old logit down.
    """

    def loss(student, teacher, targets, classes):
        new = classes.seen & ~classes.old
        return losses.cross_entropy(
            student.logits,
            targets.labels,
            label_smoothing=options.label_smoothing,
            mask=new,
            rows=targets.rows,
        )

    return distill.add(replace(finetune.make(options), name="lwf", loss=loss), options)
