"""Distillation from the last phase's model, added to a method's loss as the published variants do."""

from dataclasses import replace

from cil_func import losses
from cil_func.methods.base import Method, Options


def add(method: Method, options: Options) -> Method:
    """Returns the method with KD, distillation from the last phase's model over the old classes, added to its loss.

    The method's own loss, CE below, is given no teacher. Phase 0 has no old class: there the loss is CE alone.
    options.kd_combination: "convex": (1 - w) CE + w KD; "sum": CE + w KD.
    options.kd_weight: w, a number, or "dynamic": num_old / (num_old + num_new), the numbers of old and new classes.
    options.temperature: that of KD.
    Source: Zhao et al. 2020 (arXiv:1911.07053).
    """

    def loss(student, teacher, targets, classes):
        ce = method.loss(student, None, targets, classes)
        if teacher is None:
            return ce
        kd = losses.distillation(
            student.logits, teacher.logits, temperature=options.temperature, mask=classes.old, rows=targets.rows
        )
        num_old, num_seen = (known.sum(dtype=kd.dtype) for known in (classes.old, classes.seen))
        # A tensor also where it is a number: with no old class, in phase 0, the same graph is CE alone.
        weight = num_old / num_seen if options.kd_weight == "dynamic" else options.kd_weight * num_old.sign()
        return ce + weight * kd if options.kd_combination == "sum" else (1 - weight) * ce + weight * kd

    return replace(method, loss=loss, uses_teacher=True)
