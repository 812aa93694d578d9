"""Fine-tuning: train on the new classes, keep nothing, forget. The lower bound."""

from cil_func import losses
from cil_func.methods.base import Method, Options


def make(options: Options) -> Method:
    """Returns fine-tuning: cross-entropy over all classes seen, with options.label_smoothing."""

    def loss(student, teacher, targets, classes):
        return losses.cross_entropy(
            student.logits,
            targets.labels,
            label_smoothing=options.label_smoothing,
            mask=classes.seen,
            rows=targets.rows,
        )

    return Method(name="finetune", loss=loss)
