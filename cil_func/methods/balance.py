"""The last training of a phase on as many images of each class, which several methods have."""

from cil_func.methods.base import Loss, Stage


def stage(
    loss: Loss,
    *,
    epochs: int,
    rate: float,
    clamp: float = 0.0,
    teacher: str = "",
    everything: bool = False,
) -> tuple[Stage, ...]:
    """Returns (the stage "balance",), which follows the training of a phase; () for 0 epochs.

    It trains on the exemplars and as many images of each new class, see "balanced" in `Stage.rows`.
    epochs, rate: defaults of [optim.balance], where the rate is constant.
    clamp: see `Stage`. teacher: "": the loss needs none; else `Stage.teacher`.
    everything: whether the whole network is trained; else the classifier's rows alone, and batch norm stays as it is.
    """
    if not epochs:
        return ()
    return (Stage(
        "balance",
        loss,
        rows="balanced",
        trainable=lambda path: everything or path.startswith("classifier."),
        norm="train" if everything else "eval",
        uses_teacher=bool(teacher),
        teacher="before" if teacher == "before" else "last",
        clamp=clamp,
        optim={"epochs": epochs, "learning_rate": rate, "schedule": "constant", "warmup_epochs": 0},
    ),)  # fmt: skip
