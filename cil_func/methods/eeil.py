"""EEIL, end-to-end incremental learning (Castro et al. 2018, arXiv:1807.09536).

    loss = cross-entropy + sum over earlier phases of the distillation over that phase's classes alone    (section 3.2)

Then the whole network is fine-tuned on as many images of each class. There the newest phase's classes are distilled
too, and the teacher is the model before the fine-tuning (section 4.1). The paper's noise on gradients is left out.
"""

from dataclasses import replace

from cil_func import losses
from cil_func.methods import balance, replay
from cil_func.methods.base import Method, Options
from cil_func.methods.ranges import Number, Weight


def make(options: Options, *, tuned_epochs: Number = 30, clamp: Weight = 0.0) -> Method:
    """Returns EEIL: replay with a distillation for each earlier phase, then the stage "balance".

    tuned_epochs: of that stage; 0: no such stage. clamp: largest absolute value of an entry of the gradient; 0: no
    limit; PODNet's author takes 2 (`cifar-eeil.toml`). options.temperature: that of the distillation; the other options
    of distillation are not used.
    """
    base = replay.make(options)

    def distilled(student, teacher, targets, classes, *, newest=False):
        ce = base.loss(student, None, targets, classes)
        if teacher is None:
            return ce
        kd = losses.distillation(
            student.logits, teacher.logits, temperature=options.temperature,
            mask=classes.seen if newest else classes.old, rows=targets.rows, groups=classes.phase,
        )  # fmt: skip
        return ce + kd

    def tuned(student, teacher, targets, classes):
        return distilled(student, teacher, targets, classes, newest=True)

    stages = balance.stage(tuned, epochs=tuned_epochs, rate=0.01, clamp=clamp, teacher="before", everything=True)
    return replace(base, name="eeil", loss=distilled, uses_teacher=True, clamp=clamp, stages=stages)
