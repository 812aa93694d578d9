"""Fine-tuning: train on the new classes, keep nothing, forget. The lower bound."""

from cil_func import losses
from cil_func.methods.base import Method, Options


def make(options: Options) -> Method:
    """Cross-entropy over all classes seen."""

    def loss(student, teacher, labels, classes):
        return losses.cross_entropy(
            student.logits, labels, label_smoothing=options.label_smoothing, mask=classes.seen
        )

    return Method(name="finetune", loss=loss)
