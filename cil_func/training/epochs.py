"""Trains one phase: epochs over batches, with measures read once an epoch."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch

from cil_func import tree
from cil_func.data.batches import Batch, Chunk
from cil_func.errors import NonFiniteError
from cil_func.methods import Outputs
from cil_func.training.runners import CapturedSteps, EagerSteps
from cil_func.training.step import NEVER, Health, pad


class Position(NamedTuple):
    """Where the training of a phase stands: `step` steps of epoch `epoch` are done."""

    epoch: int
    step: int


def fit(
    steps: EagerSteps | CapturedSteps,
    *,
    chunks: Callable[[int, int], Iterable[Chunk]],
    batch_size: int,
    teach: Callable[[torch.Tensor], Outputs | None],
    rate: Callable[[int], float],
    epochs: int,
    dtype: torch.dtype,
    padded_to: int = 0,
    seed: Callable[[Position], int] | None = None,
    start: tuple[int, int] = (0, 0),
    check: Callable[[Health | None], None] = lambda health: None,
    emit: Callable[[dict], None],
    before_step: Callable[[Position], None] = lambda position: None,
    before_chunk: Callable[[Position], None] = lambda position: None,
    after_epoch: Callable[[int], None] = lambda epoch: None,
) -> None:
    """Takes the steps of `epochs` epochs, from `start` on; the train state is in `steps`.

    chunks(epoch, first_step) gives what the epoch trains on from a step on, in order, in chunks of whole batches on
    the device; batch_size: images of a step, on all processes; teach(images) is what the teacher says of a chunk;
    rate(epoch) is the learning rate, in `dtype`. padded_to: rows that each batch is filled up to, 0: none.
    seed(position) is the key of what a step draws from torch's global generator; None: a step draws nothing.
    check(health) is called once an epoch and raises NonFiniteError where a step was not finite. before_step may stop
    the training by an exception: everything that a later call needs is then in `steps` and the position. before_chunk
    is called before each wait for a chunk and its teacher, with one call more where an epoch has no other chunk.
    Emits "progress" events (images trained since the last) and an "epoch" event each.
    """
    start = Position(*start)
    upcoming = chunks(*start)
    for epoch in range(start.epoch, epochs):
        started, step = time.perf_counter(), start.step if epoch == start.epoch else 0
        images = before = step * batch_size
        rate_now = None
        before_chunk(Position(epoch, step))
        for chunk in upcoming:
            if rate_now is None:
                rate_now = torch.tensor(rate(epoch), dtype=dtype, device=chunk.batch.labels.device)
            for taught, batch, total in _batches(teach(chunk.batch.images), chunk):
                position = Position(epoch, step)
                before_step(position)
                inputs = *pad(taught, batch, padded_to and padded_to - len(batch.labels)), rate_now
                steps(*inputs, seed(position) if seed else None)
                step, images = step + 1, images + total
                emit({"event": "progress", "images": total, "epoch": epoch})
            before_chunk(Position(epoch, step))
        # The next epoch's draws are made on the host while a GPU still works on this one.
        upcoming = chunks(epoch + 1, 0) if epoch + 1 < epochs else ()
        check(steps.health())
        totals = steps.measures()
        loss = totals.loss.item() / images  # the epoch's one host sync, if `check` made none
        seconds = time.perf_counter() - started
        emit({
            "event": "epoch",
            "epoch": epoch,
            "epochs": epochs,
            "loss": loss,
            "train_top1": 100.0 * totals.correct.item() / images,
            "learning_rate": rate(epoch),
            "images": images,
            "images_per_second": (images - before) / seconds,
            "seconds": seconds,
        })
        after_epoch(epoch)


def refuse_failed(health: Health, *, phase: int, steps_per_epoch: int, name: Callable[[int], str]) -> None:
    """Raises NonFiniteError that names phase, epoch, step and tensor, if a step was not finite. Waits for the device.

    name(entry): what an entry of the step's vector is, see `step.entry_name`.
    """
    failed, entry = torch.stack((health.failed_step, health.entry)).tolist()
    if failed != NEVER:
        epoch, step = divmod(failed, steps_per_epoch)
        raise NonFiniteError(
            f"phase {phase}, epoch {epoch}, step {step}: {name(entry)} is not finite, and nothing has changed since; "
            "try a lower optim.learning_rate, or optim.warmup_epochs"
        )


def _batches(taught: Outputs | None, chunk: Chunk) -> Iterator[tuple[Outputs | None, Batch, int]]:
    """What is left to do of a chunk, step by step, with the step's images on all processes."""
    start = 0
    for step, (size, total) in enumerate(zip(chunk.sizes, chunk.totals, strict=True)):
        here = slice(start, start + size)
        if step >= chunk.done:
            yield *tree.map(lambda leaf, here=here: leaf[here], (taught, chunk.batch)), total
        start += size
