"""LwF, learning without forgetting (Li and Hoiem 2016, arXiv:1606.09282): distillation and no memory.

`lwf_classes` says over which classes the cross-entropy of a later phase is taken:

    "new"    the phase's own classes, as each task has its own head in the paper. Published code for class-incremental
             learning does the same: FACIL takes the new head alone, PyCIL the new columns.
    "seen"   all classes seen. No old image holds the old logits up, so they are pushed down.

With "new" a phase that brings one class learns nothing: softmax over one logit is 1, the loss is 0 and so is its
gradient. The published code has no answer to that: both print a loss of 0 and go on. Here such a run is refused.
In phase 0 both choices are the same.
"""

from collections.abc import Sequence
from dataclasses import replace

from cil_func import losses
from cil_func.methods import distillation, finetune
from cil_func.methods.base import Method, Options


def make(options: Options) -> Method:
    """Cross-entropy over the new classes alone, or as `lwf_classes` says, and distillation over the old ones."""
    if options.lwf_classes == "seen":
        return distillation.add(replace(finetune.make(options), name="lwf"), options)

    def loss(student, teacher, targets, classes):
        new = classes.seen & ~classes.old
        return losses.cross_entropy(
            student.logits,
            targets.labels,
            label_smoothing=options.label_smoothing,
            mask=new,
            rows=targets.rows,
        )

    return distillation.add(replace(finetune.make(options), name="lwf", loss=loss, fault_of=single_class), options)


def single_class(sizes: Sequence[int]) -> str:
    """Why phases of these sizes can't be learned by cross-entropy over the new classes alone; "" if they can."""
    if 1 not in sizes[1:]:
        return ""
    return (
        f"data.increment: phase {sizes.index(1, 1)} brings a single class, and lwf's cross-entropy over the new "
        "classes alone is 0 there, so the class is never learned; choose an increment that brings 2 or more classes "
        'in each phase, or set method.lwf_classes = "seen"'
    )
