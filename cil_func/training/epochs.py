"""Trains one stage of a phase: epochs over batches, with measures read once an epoch."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import torch

from cil_func import tree
from cil_func.data.batches import Batch, Chunk
from cil_func.errors import NonFiniteError
from cil_func.networks.outputs import Outputs
from cil_func.training.runners import CapturedSteps, EagerSteps
from cil_func.training.step_state import NEVER, Health, Measures, pad


class Position(NamedTuple):
    """Where the training of a stage stands: the first `step` steps of epoch `epoch` are done. Both count from 0."""

    epoch: int
    step: int


class EpochNumbers(Protocol):
    """The fields of a `recipe.Recipe` that the loop over epochs uses; see there."""

    @property
    def epochs(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def padded_to(self) -> int: ...

    @property
    def rate(self) -> Callable[[int], float]: ...

    @property
    def dtype(self) -> torch.dtype: ...


def fit(
    steps: EagerSteps | CapturedSteps,
    numbers: EpochNumbers,
    *,
    chunks: Callable[[int, int], Iterable[Chunk]],
    teach: Callable[[torch.Tensor], Outputs | None],
    seed: Callable[[Position], int] | None = None,
    start: tuple[int, int] = (0, 0),
    check: Callable[[Health | None], None] = lambda health: None,
    emit: Callable[[dict], None],
    before_step: Callable[[Position], None] = lambda position: None,
    before_chunk: Callable[[Position], None] = lambda position: None,
    after_epoch: Callable[[int], None] = lambda epoch: None,
) -> None:
    """Takes the steps of all epochs of a stage, from `start` on. The train state is in `steps`, which moves it on.

    numbers: a `recipe.Recipe`, of which the fields of `EpochNumbers` are used.
    chunks(epoch, first_step) -> what the epoch trains on from a step on, in chunks of whole batches on the device.
    teach(images) -> the teacher's outputs for the images of a chunk, uint8 (B, H, W, 3); None: no teacher.
    seed(position) -> the key of what a step draws from torch's global generator; None: a step draws nothing.
    start: (epoch, step) of the first step that is taken.
    check(health): called once an epoch; raises NonFiniteError if a step was not finite.
    emit(event): takes a "progress" event a step, with the number of images of that step on all processes, and an
    "epoch" event an epoch.
    before_step(position): may stop the training by an exception. Everything that a later call needs is then in `steps`
    and the position.
    before_chunk(position): called before each wait for a chunk and its teacher, and once more after the last chunk.
    after_epoch(epoch): called after the epoch's event.
    """
    start = Position(*start)
    upcoming = chunks(*start)
    for epoch in range(start.epoch, numbers.epochs):
        started, step = time.perf_counter(), start.step if epoch == start.epoch else 0
        images = before = step * numbers.batch_size
        rate = None
        before_chunk(Position(epoch, step))
        for chunk in upcoming:
            if rate is None:
                rate = torch.tensor(numbers.rate(epoch), dtype=numbers.dtype, device=chunk.batch.labels.device)
            for taught, batch, total in _batches(teach(chunk.batch.images), chunk):
                position = Position(epoch, step)
                before_step(position)
                missing = numbers.padded_to - len(batch.labels) if numbers.padded_to else 0
                steps(*pad(taught, batch, missing), rate, seed(position) if seed else None)
                step, images = step + 1, images + total
                emit({"event": "progress", "images": total, "epoch": epoch})
            before_chunk(Position(epoch, step))
        # The next epoch's draws are made on the host while a GPU still works on this one.
        upcoming = chunks(epoch + 1, 0) if epoch + 1 < numbers.epochs else ()
        check(steps.health())
        measured = _means(steps.measures(), images, step)  # the epoch's one host sync, if `check` made none
        seconds = time.perf_counter() - started
        emit({
            "event": "epoch",
            "epoch": epoch,
            "epochs": numbers.epochs,
            **measured,
            "learning_rate": numbers.rate(epoch),
            "images": images,
            "images_per_second": (images - before) / seconds,
            "seconds": seconds,
        })
        after_epoch(epoch)


def _means(totals: Measures, images: int, steps: int) -> dict[str, float]:
    """Returns the means of an epoch's measures: of loss and accuracy over its images, of the norms over its steps."""
    return {
        "loss": totals.loss.item() / images,
        "train_top1": 100.0 * totals.correct.item() / images,
        "gradient_norm": totals.gradient.item() / steps,
        "weight_norm": totals.weights.item() / steps,
        "update_norm": totals.update.item() / steps,
    }


def refuse_failed(health: Health, *, phase: int, steps_per_epoch: int, name: Callable[[int], str]) -> None:
    """Raises NonFiniteError, which names phase, epoch, step and tensor, if `health` says that a step was not finite.

    Waits for the device. steps_per_epoch: turns the step, counted from the stage's start, into epoch and step.
    name(entry): what the entry of that number was a sum of, in the vector of sums that a step makes, such as "the
    gradient of PATH"; see `step_state.entry_name`.
    """
    failed, entry = torch.stack((health.failed_step, health.entry)).tolist()
    if failed != NEVER:
        epoch, step = divmod(failed, steps_per_epoch)
        raise NonFiniteError(
            f"phase {phase}, epoch {epoch}, step {step}: {name(entry)} is not finite, and nothing has changed since; "
            "try a lower optim.learning_rate, or optim.warmup_epochs"
        )


def _batches(taught: Outputs | None, chunk: Chunk) -> Iterator[tuple[Outputs | None, Batch, int]]:
    """Yields (taught, batch, total) for each step of a chunk that is not done yet.

    taught: the teacher's outputs for the whole chunk, or None; cut to the batch. total: the step's images on all
    processes.
    """
    start = 0
    for step, (size, total) in enumerate(zip(chunk.sizes, chunk.totals, strict=True)):
        here = slice(start, start + size)
        if step >= chunk.done:
            yield *tree.map(lambda leaf, here=here: leaf[here], (taught, chunk.batch)), total
        start += size
