"""Trains one stage of a phase: what `epochs.fit` needs, put together, and what happens at the borders of its steps."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from cil_func import rng, tree
from cil_func.data import batches
from cil_func.data.augmentation.augment import Augment
from cil_func.data.images import Images
from cil_func.data.replays import Pool, Replays
from cil_func.errors import NonFiniteError
from cil_func.networks.outputs import Classes
from cil_func.training.epochs import Position, fit, refuse_failed
from cil_func.training.events import Emit
from cil_func.training.inference import Teach
from cil_func.training.progress import SaveHook, StageProgress
from cil_func.training.recipe import Recipe
from cil_func.training.runners import CapturedSteps, EagerSteps
from cil_func.training.step_state import Health, TrainState, entry_name
from cil_func.training.waiting import Waiting


class Evaluate(Protocol):
    """(train_state, epoch) -> None. Called after each epoch for whose end the recipe asks for an evaluation.

    epoch: the one that has ended, from 0. It emits what it measures.
    """

    def __call__(self, train_state: TrainState, epoch: int, /) -> None: ...


@dataclass(frozen=True)
class TrainingData:
    """What a stage trains on.

    images: N of them. labels: int64 (N,). rows: int64 (M,), those of both that are trained on, each once an epoch.
    augment: how images are augmented; None: not at all. device: where batches go.
    pools: of exemplars that come beside each batch, see `data.replays`. views: how often a row comes in a batch, see
    `methods.base.Stage`.
    """

    images: Images
    labels: torch.Tensor
    rows: torch.Tensor
    augment: Augment | None
    device: torch.device
    pools: tuple[Pool, ...] = ()
    views: int = 1

    def __len__(self) -> int:
        """Returns how many images an epoch has."""
        return self.views * len(self.rows)

    def counts(self, num_classes: int) -> torch.Tensor:
        """Returns how many images of each of the run's C classes are trained on: (C,) int64, on the device."""
        return torch.bincount(self.labels[self.rows].cpu(), minlength=num_classes).to(self.device)

    def chunks(
        self, recipe: Recipe, key: int, waiting: Waiting, epoch: int, first_step: int
    ) -> Iterator[batches.Chunk]:
        """Returns an iterator over an epoch's chunks, each of several batches, from step `first_step` on.

        recipe: says how the rows are cut into batches. key: the stage's, from which order and augmentation are drawn.
        waiting: measures how long the iterator waits for images.
        """
        return batches.epoch_chunks(
            self.images,
            self.labels,
            self.rows,
            batch_size=recipe.batch_size,
            key=rng.fold_in(key, "epoch", epoch),
            augment=self.augment,
            device=self.device,
            own=recipe.own,
            joins=recipe.joins,
            first_step=first_step,
            around=waiting.around,
            replays=Replays(self.pools, recipe.share) if self.pools else None,
            views=self.views,
        )


@dataclass(frozen=True)
class Borders:
    """What happens between the steps of a stage.

    emit: takes its events. hook: may save and stop the training. evaluate: measures the model between two epochs.
    alone: whether one process trains. If not, the training may be stopped only before a step, where all leave together.
    """

    emit: Emit
    hook: SaveHook[StageProgress]
    evaluate: Evaluate
    alone: bool = True


def train(
    recipe: Recipe,
    begin: Callable[[], StageProgress],
    data: TrainingData,
    *,
    classes: Classes,
    teach: Teach,
    key: int,
    phase: int,
    borders: Borders,
    captured: bool = False,
    draws: bool = False,
) -> StageProgress:
    """Trains from where `begin()` says to the end of the recipe's last epoch; returns where that ends.

    begin: called once; the state that it returns is not kept, for after a step there is another one.
    classes: on the device. teach(images) -> the teacher's outputs for a chunk of images. key: of the stage, from which
    all of its draws follow. phase: its index, for messages and events. captured: whether steps are captured as a CUDA
    graph. draws: whether the backbone draws random numbers.
    Raises NonFiniteError if a step, a weight or a number of the optimiser's is not finite.
    """
    clock, start = time.perf_counter(), begin()
    position, seconds_before = start.position, start.seconds
    progress = partial(StageProgress, number=start.number, chosen=start.chosen, before=start.before)
    tracks = recipe.stage.track is not None
    runner = partial(CapturedSteps, most=recipe.batch_size) if captured else EagerSteps
    steps = runner(recipe.step, start.train_state, classes, start.totals, borders.hook.before_change)
    del start  # with a train state that is out of date after a step
    steps_per_epoch = len(recipe.batches(len(data)))
    waiting = Waiting(data.device, data.images.workers, borders.emit)

    def check(health: Health) -> None:
        name = lambda entry: entry_name(steps.snapshot()[0], entry, recipe.stage)  # noqa: E731
        refuse_failed(health, phase=phase, steps_per_epoch=steps_per_epoch, name=name)

    def at(position: Position) -> StageProgress:
        check(steps.health())
        train_state, totals = steps.snapshot()
        refuse_infinite(train_state if tracks else train_state._replace(extra={}), phase, position)
        return progress(train_state, totals, position, seconds_before + time.perf_counter() - clock)

    def before_chunk(position: Position) -> None:
        if borders.alone and position.step < steps_per_epoch:
            borders.hook.before_long_work(lambda: at(position))

    def after_epoch(epoch: int) -> None:
        every = recipe.eval_every_epochs
        if every and (epoch + 1) % every == 0 and epoch + 1 < recipe.epochs:
            borders.hook.before_long_work(lambda: at(Position(epoch, steps_per_epoch)))
            borders.evaluate(steps.snapshot()[0], epoch)
            borders.hook.before_change()

    try:
        if position.step == steps_per_epoch:  # an earlier run was stopped in the evaluation after that epoch
            after_epoch(position.epoch)
            position = Position(position.epoch + 1, 0)
        fit(
            steps,
            recipe,
            chunks=partial(data.chunks, recipe, key, waiting),
            teach=teach,
            seed=(lambda position: rng.fold_in(key, "drop", *position)) if draws else None,
            start=position,
            waiting=waiting,
            check=check,
            emit=borders.emit,
            before_step=lambda position: borders.hook.at_border(lambda: at(position), False),
            before_chunk=before_chunk,
            after_epoch=after_epoch,
        )
        done = at(Position(recipe.epochs, 0))
    finally:
        steps.close()
    borders.hook.at_border(lambda: done, True)
    return done


def refuse_infinite(train_state: TrainState, phase: int, position: Position) -> None:
    """Raises NonFiniteError if a weight, or a number that the optimiser or the method remembers, is not finite. Waits.

    phase, position: for the message. A step is judged by its gradients. Finite ones may still carry the weights away,
    and no checkpoint may hold that.
    """
    parts = {"weights": train_state.params, "optimiser": train_state.opt_state, "remembered": train_state.extra}
    leaves = tree.to_paths(parts)
    leaves = {path: leaf for path, leaf in leaves.items() if leaf.numel()}
    # Their ends, which a NaN spreads to: isfinite of each takes 7 times as long, and on a GPU a wait for each.
    ends = torch.stack([torch.stack(leaf.aminmax()).double() for leaf in leaves.values()])  # (leaves, 2)
    for path, finite in zip(leaves, ends.isfinite().all(1).tolist(), strict=True):
        if not finite:
            raise NonFiniteError(
                f"phase {phase}, epoch {position.epoch}, step {position.step}: {path} is not finite; "
                "try a lower optim.learning_rate"
            )
