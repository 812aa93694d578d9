"""Replay with adjusted logits (Menon et al. 2021, arXiv:2007.07314), or a classifier that is trained again.

Both make up for the few images of old classes. Logit adjustment (equation 10):  cross-entropy of  logits + tau log pi,
where pi_c is the share of class c in the images that are trained on. Predictions are by the logits alone.
Classifier re-training (Kang et al. 2020, arXiv:1910.09217, section 4): after that, the classifier alone is trained on
as many images of each class.
"""

from dataclasses import replace

from cil_func.methods import balance, replay
from cil_func.methods.base import Method, Options
from cil_func.methods.ranges import Number, Weight


def make(options: Options, *, tau: Weight = 1.0, tuned_epochs: Number = 0) -> Method:
    """Returns replay with the adjusted loss, and with a stage "balance" after it.

    tau: of the adjustment; 0: none. tuned_epochs: of the stage "balance"; 0: no such stage.
    """
    base = replay.make(options)

    def loss(student, teacher, targets, classes):
        counts = classes.counts.clamp(min=1).to(student.logits.dtype)  # (C,); 1: a class without exemplars
        adjusted = student.logits + tau * (counts / counts.sum()).log()
        return base.loss(student._replace(logits=adjusted), teacher, targets, classes)

    return replace(base, name="balanced", loss=loss, stages=balance.stage(base.loss, epochs=tuned_epochs, rate=0.01))
