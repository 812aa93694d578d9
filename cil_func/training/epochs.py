"""Trains one stage of a phase: epochs over batches, with measures read once an epoch."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import torch

from cil_func import tree
from cil_func.data.batch import AnyBatch, Chunk, ReplayBatch
from cil_func.errors import NonFiniteError
from cil_func.networks.outputs import Outputs
from cil_func.optim import Schedule
from cil_func.training.events import Emit
from cil_func.training.inference import Teach
from cil_func.training.runners import CapturedSteps, EagerSteps
from cil_func.training.step_state import NEVER, Health, Measures, pad
from cil_func.training.waiting import Waiting


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
    def rate(self) -> Schedule: ...

    @property
    def dtype(self) -> torch.dtype: ...


class Chunks(Protocol):
    """(epoch, first step) -> what the epoch trains on from that step on, in chunks of whole batches on the device."""

    def __call__(self, epoch: int, first_step: int, /) -> Iterable[Chunk]: ...


class AtPosition(Protocol):
    """Called with the position of the step that is next. May stop the training by an exception."""

    def __call__(self, position: Position, /) -> None: ...


class Seed(Protocol):
    """(position) -> the key of what the step there draws from torch's global generator."""

    def __call__(self, position: Position, /) -> int: ...


class Check(Protocol):
    """Called with the health once an epoch. Raises NonFiniteError if a step was not finite."""

    def __call__(self, health: Health, /) -> None: ...


def fit(
    steps: EagerSteps | CapturedSteps,
    numbers: EpochNumbers,
    *,
    chunks: Chunks,
    teach: Teach,
    seed: Seed | None = None,
    start: tuple[int, int] = (0, 0),
    waiting: Waiting | None = None,
    check: Check = lambda health: None,
    emit: Emit,
    before_step: AtPosition = lambda position: None,
    before_chunk: AtPosition = lambda position: None,
    after_epoch: Callable[[int], None] = lambda epoch: None,
) -> None:
    """Takes the steps of all epochs of a stage, from `start` on. The train state is in `steps`, which moves it on.

    numbers: a `recipe.Recipe`, of which the fields of `EpochNumbers` are used.
    chunks: gives the images of an epoch. teach: gives the teacher's outputs for the images of a chunk.
    seed: None if a step draws nothing from torch's global generator.
    start: (epoch, step) of the first step that is taken. waiting: has measured how long
    `chunks` waited for images; None: nothing has. check: called once an epoch.
    emit: takes a "progress" event a step, with the number of images of that step on all processes, and an "epoch" event
    an epoch.
    before_step: if it stops the training, everything that a later call needs is in `steps` and the position.
    before_chunk: called before each wait for a chunk and its teacher, and once more after the last chunk.
    after_epoch: called after the epoch's event.
    """
    first, waiting = Position(*start), waiting or Waiting()
    if first.epoch >= numbers.epochs:  # of a method that trains nothing there are none
        return
    upcoming = chunks(*first)
    for epoch in range(first.epoch, numbers.epochs):
        started, step = time.perf_counter(), first.step if epoch == first.epoch else 0
        images = before = step * numbers.batch_size
        rate = None
        before_chunk(Position(epoch, step))
        for chunk in upcoming:
            if rate is None:
                rate = torch.tensor(numbers.rate(epoch), dtype=numbers.dtype, device=chunk.batch.labels.device)
                if steps.classes.progress is not None:  # in place, where a captured step reads it
                    steps.classes.progress.fill_(epoch / numbers.epochs)
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
        waiting.end_epoch(seconds)
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


def _batches(taught: Outputs | None, chunk: Chunk) -> Iterator[tuple[Outputs | None, AnyBatch, int]]:
    """Yields (taught, batch, total) for each step of a chunk that is not done yet.

    taught: the teacher's outputs for the whole chunk, or None; cut to the batch. total: the step's images on all
    processes.
    """
    start = 0
    for step, (size, total) in enumerate(zip(chunk.sizes, chunk.totals, strict=True)):
        here = slice(start, start + size)
        if step >= chunk.done:
            taught_here, batch = tree.map(lambda leaf, here=here: leaf[here], (taught, chunk.batch))
            if chunk.replayed is not None:
                beside = tree.map(lambda leaf, step=step: leaf[step], chunk.replayed)
                batch = ReplayBatch(batch.images, batch.labels, beside)
            yield taught_here, batch, total
        start += size
