"""Trains one phase: epochs over batches, with measures read once an epoch."""

import math
import time
from collections.abc import Callable, Iterable

import torch

from cil_func import tree
from cil_func.data.resident import Batch
from cil_func.engine.step import Teacher, TrainState
from cil_func.errors import NonFiniteError
from cil_func.methods import Classes


def fit(
    step: Callable,
    train_state: TrainState,
    teacher: Teacher | None,
    classes: Classes,
    *,
    phase: int,
    batches: Callable[[int], Iterable[Batch]],
    rate: Callable[[int], float],
    epochs: int,
    emit: Callable[[dict], None],
    after_epoch: Callable[[int, TrainState], None] = lambda epoch, train_state: None,
) -> TrainState:
    """Runs `epochs` epochs and returns the last train state.

    batches(epoch) yields what the epoch trains on; rate(epoch) is its learning rate. Emits "progress"
    events (images trained since the last) and an "epoch" event each. Raises NonFiniteError after an
    epoch whose loss is not finite.
    """
    device = classes.seen.device
    dtype = tree.leaves(train_state.params)[0].dtype
    for epoch in range(epochs):
        started, images, totals = time.perf_counter(), 0, None
        rate_now = torch.tensor(rate(epoch), dtype=dtype, device=device)
        for batch in batches(epoch):
            batch = tree.cast(batch, device=device)
            train_state, measures = step(train_state, teacher, batch, classes, rate_now)
            totals = measures if totals is None else tree.map(torch.add, totals, measures)
            images += len(batch.labels)
            emit({"event": "progress", "phase": phase, "epoch": epoch, "images": len(batch.labels)})
        loss = totals.loss.item() / images  # the epoch's one host sync
        if not math.isfinite(loss):
            raise NonFiniteError(
                f"phase {phase}, epoch {epoch}: the loss is {loss}; "
                "try a lower optim.learning_rate, or optim.warmup_epochs"
            )
        seconds = time.perf_counter() - started
        emit({
            "event": "epoch",
            "phase": phase,
            "epoch": epoch,
            "epochs": epochs,
            "loss": loss,
            "train_top1": 100.0 * totals.correct.item() / images,
            "learning_rate": rate(epoch),
            "images": images,
            "images_per_second": images / seconds,
            "seconds": seconds,
        })
        after_epoch(epoch, train_state)
    return train_state
