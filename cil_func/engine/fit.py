"""Trains one phase: epochs over batches, with measures read once an epoch."""

import math
import time
from collections.abc import Callable, Iterable, Iterator

import torch

from cil_func import tree
from cil_func.data.resident import Batch
from cil_func.engine.compile import Captured, Threaded
from cil_func.engine.step import TrainState, pad
from cil_func.errors import NonFiniteError
from cil_func.methods import Outputs


def fit(
    steps: Threaded | Captured,
    *,
    phase: int,
    chunks: Callable[[int], Iterable[Batch]],
    batch_size: int,
    teach: Callable[[torch.Tensor], Outputs | None],
    rate: Callable[[int], float],
    epochs: int,
    dtype: torch.dtype,
    padded: bool = False,
    emit: Callable[[dict], None],
    after_epoch: Callable[[int, Callable[[], TrainState]], None] = lambda epoch, train_state: None,
) -> TrainState:
    """Runs `epochs` epochs and returns the last train state.

    chunks(epoch) gives what the epoch trains on, in order, in chunks of whole batches on the device;
    teach(images) is what the teacher says of a chunk; rate(epoch) is the learning rate, in `dtype`.
    padded: whether the last, smaller batch is filled up to the shape of the others.
    Emits "progress" events (images trained since the last) and an "epoch" event each. Raises NonFiniteError
    after an epoch whose loss is not finite.
    """
    upcoming = chunks(0)
    for epoch in range(epochs):
        started, images = time.perf_counter(), 0
        rate_now = None
        for chunk in upcoming:
            if rate_now is None:
                rate_now = torch.tensor(rate(epoch), dtype=dtype, device=chunk.labels.device)
            for taught, batch in _batches(teach(chunk.images), chunk, batch_size):
                missing = batch_size - len(batch.labels) if padded else 0
                steps(*pad(taught, batch, missing), rate_now)
                images += len(batch.labels)
                emit({"event": "progress", "phase": phase, "epoch": epoch, "images": len(batch.labels)})
        # The next epoch's draws are made on the host while a GPU still works on this one.
        upcoming = chunks(epoch + 1) if epoch + 1 < epochs else ()
        totals = steps.measures()
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
        after_epoch(epoch, steps.train_state)
    return steps.train_state()


def _batches(taught: Outputs | None, chunk: Batch, size: int) -> Iterator[tuple[Outputs | None, Batch]]:
    for start in range(0, len(chunk.labels), size):
        here = slice(start, start + size)
        yield tree.map(lambda leaf, here=here: leaf[here], (taught, chunk))
