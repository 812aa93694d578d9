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
from functools import partial

from cil_func import losses
from cil_func.methods import distillation, finetune
from cil_func.methods.base import Method, Options


def make(options: Options) -> Method:
    """Returns LwF: cross-entropy over the classes that `lwf_classes` says, and distillation over the old ones."""
    if options.lwf_classes == "seen":
        base = finetune.make(options)
    else:
        base = over_new_classes(options, way_out='method.lwf_classes = "seen"')
    return distillation.add(replace(base, name="lwf"), options)


def over_new_classes(options: Options, *, way_out: str = "") -> Method:
    """Returns `finetune.make(options)` with the cross-entropy over the logits of the phase's new classes alone.

    There is no distillation in it; `make` adds that. Of `options` only label_smoothing is read. The images must be of
    new classes: there is no memory of old ones. Runs with a later phase of a single class are refused (`single_class`).
    way_out: the setting that takes all classes seen instead, for that message; "": there is none.
    """

    def loss(student, teacher, targets, classes):
        return losses.cross_entropy(
            student.logits,
            targets.labels,
            label_smoothing=options.label_smoothing,
            mask=classes.new,
            rows=targets.rows,
        )

    return replace(finetune.make(options), loss=loss, fault_of=partial(single_class, way_out=way_out))


def single_class(sizes: Sequence[int], *, way_out: str = "") -> str:
    """Returns why phases of these sizes can't be learned by cross-entropy over the new classes alone; "" if they can.

    sizes: how many classes each phase brings. Only a later phase of a single class is at fault. way_out: see
    `over_new_classes`. A `methods.base.FaultOf`.
    """
    if 1 not in sizes[1:]:
        return ""
    return (
        f"data.increment: phase {sizes.index(1, 1)} brings a single class, and cross-entropy over the new classes "
        "alone is 0 there, so the class is never learned; choose an increment that brings 2 or more classes in each "
        "phase" + (f", or set {way_out}" if way_out else "")
    )
