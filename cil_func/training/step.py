"""The training step: one pure function from a train state and a batch to the next train state.

It has two parts. `gradient` returns a flat vector of sums over the images of a batch: gradients, new statistics and
measures. `update` takes the vector and returns the next train state. Between them, several processes add their vectors
up: one collective a step.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch

from cil_func import optim, tree
from cil_func.data.batches import Batch
from cil_func.methods.base import Stage, Targets, nothing
from cil_func.networks import layers
from cil_func.networks.network import Network
from cil_func.networks.outputs import Classes, Outputs
from cil_func.training.preprocess import Preprocess
from cil_func.training.step_state import NEVER, PADDING, Measures, TrainState, after_step, pad


class Gradient(Protocol):
    """(train_state, taught, batch, classes) -> (vector, moved): the first part of a step.

    taught: the teacher's outputs for the batch, or None.
    vector: (V,), so that several processes can add theirs up before the second part. It is the batch's mean gradients
    of the trained parameters, new state (batch norm's running statistics, those that aren't frozen) and loss, each
    times the number of images; then the number of right predictions, the number of images without padding, and a 0 by
    which `parallel.processes` sends a signal. moved: the new state, a tree, of which `Update` reads the shapes and the
    integer leaves.
    """

    def __call__(
        self, train_state: TrainState, taught: Outputs | None, batch: Batch, classes: Classes, /
    ) -> tuple[torch.Tensor, tree.Tree]: ...


class Update(Protocol):
    """(train_state, vector, moved, classes, rate) -> (train_state, measures): the second part of a step.

    vector, moved: see `Gradient`. rate: the learning rate, 0-d.
    """

    def __call__(
        self, train_state: TrainState, vector: torch.Tensor, moved: tree.Tree, classes: Classes, rate: torch.Tensor, /
    ) -> tuple[TrainState, Measures]: ...


class StepParts(NamedTuple):
    """The two parts of a step, as functions."""

    gradient: Gradient
    update: Update


class Step(Protocol):
    """(train_state, taught, batch, classes, rate) -> (train_state, measures): a whole step.

    taught: the teacher's outputs for the batch, or None. rate: the learning rate, 0-d.
    """

    def __call__(
        self, train_state: TrainState, taught: Outputs | None, batch: Batch, classes: Classes, rate: torch.Tensor, /
    ) -> tuple[TrainState, Measures]: ...


class Reduce(Protocol):
    """(vector of this process) -> the sum of all processes' vectors, maybe written into the same memory."""

    def __call__(self, vector: torch.Tensor, /) -> torch.Tensor: ...


def join(parts: StepParts, reduce: Reduce = lambda vector: vector, *, accumulate: int = 1) -> Step:
    """Returns the whole step.

    reduce: the default is for one process.
    accumulate: into how many parts of whole norm groups the batch is cut. Their vectors are added up before the update,
    so that only one part's activations are in memory at a time.
    """

    def step(
        train_state: TrainState, taught: Outputs | None, batch: Batch, classes: Classes, rate: torch.Tensor
    ) -> tuple[TrainState, Measures]:
        if accumulate == 1:
            vector, moved = parts.gradient(train_state, taught, batch, classes)
        else:
            size = -(-len(batch.labels) // accumulate)
            pieces: Iterator[tuple[Outputs | None, Batch]] = (
                tree.map(lambda leaf, start=start: leaf[start : start + size], (taught, batch))
                for start in range(0, len(batch.labels), size)
            )
            vector, moved = parts.gradient(train_state, *next(pieces), classes)
            for piece in pieces:
                sums, moved = parts.gradient(train_state, *piece, classes)
                vector = vector + sums
        return parts.update(train_state, reduce(vector), moved, classes, rate)

    return step


def simple_step(network, loss, optimiser, preprocess):
    """Returns the step in its simplest form, to be read before `make`; both give the same weights.

    It is (params, state, opt_state, taught, batch, classes, rate) -> (params, state, opt_state). It has no padding,
    frozen parameters, several processes, checks or measures.
    """

    def step(params, state, opt_state, taught, batch, classes, rate):
        def objective(params, state):
            features, _, state = network.run(params["backbone"], state, preprocess(batch.images), train=True)
            student = network.outputs(params, features, classes)
            return loss(student, taught, Targets(batch.labels), classes), state

        grads, state = torch.func.grad(objective, has_aux=True)(params, state)
        updates, opt_state = optimiser.update(grads, opt_state, params, rate)
        return optim.apply_updates(params, updates), state, opt_state

    return step


def make(
    stage: Stage,
    network: Network,
    optimiser: optim.Optimiser,
    preprocess: Preprocess,
    *,
    dtype: torch.dtype,
    norm_batch: int,
    padded: bool = False,
) -> StepParts:
    """Returns the two parts of a stage's step.

    taught: the teacher's outputs for the batch. They don't change with the student, so they are computed ahead by the
    forward graph that evaluation uses: the step compiles in two thirds of the time, and one graph serves the phases
    with a teacher and the one before them.
    dtype: of the convolutions; parameters, statistics, loss and update keep the parameters' own.
    norm_batch: how many images share batch norm's statistics, 0 for all; the last group may be short.
    padded: whether a batch may hold padding (`pad`), which then counts nowhere.
    A step whose sums are not finite changes nothing but `health`, nor does any step after it.
    """

    def gradient(
        train_state: TrainState, taught: Outputs | None, batch: Batch, classes: Classes
    ) -> tuple[torch.Tensor, tree.Tree]:
        short = -len(batch.labels) % norm_batch if 0 < norm_batch < len(batch.labels) else 0
        taught, batch = pad(taught, batch, short)
        images = preprocess(batch.images, dtype)                                   # (B, 3, H, W)
        rows = batch.labels != PADDING if padded or short else None                      # (B,)
        valid = None if rows is None else rows.to(preprocess.mean.dtype)           # (B,)
        targets = Targets(batch.labels if rows is None else batch.labels.clamp(min=0), rows)
        chosen, frozen = tree.partition(train_state.params, stage.trains)
        statistics: layers.Mode = {"train": False}
        if stage.norm == "train":
            statistics = {"train": True, "norm_batch": norm_batch, "valid": valid}

        def objective(chosen, state):
            params = tree.merge(chosen, frozen)
            own, aux, state = network.run(params["backbone"], state, images, **statistics)
            features = network.place(own, classes.now, taught and taught.features)
            student = network.outputs(params, features, classes, aux)
            return stage.loss(student, taught, targets, classes), (state, student.logits.detach())

        # The state is an argument, not a capture: torch.func refuses to write into captured tensors (timm's norm).
        grads, (loss, (state, logits)) = torch.func.grad_and_value(objective, has_aux=True)(
            chosen, train_state.state
        )
        predictions = logits.masked_fill(~classes.seen, -torch.inf).argmax(dim=1)  # (B,)
        correct = (predictions == batch.labels).sum(dtype=loss.dtype)
        count = (batch.labels != PADDING).sum(dtype=loss.dtype)
        state = _moving(stage, state)
        means = tree.to_vector((grads, state, loss.detach()))
        return torch.cat([means * count, torch.stack([correct, count, torch.zeros_like(count)])]), state

    def update(
        train_state: TrainState, vector: torch.Tensor, moved: tree.Tree, classes: Classes, rate: torch.Tensor
    ) -> tuple[TrainState, Measures]:
        chosen, frozen = tree.partition(train_state.params, stage.trains)
        moving = _moving(stage, train_state.state)
        health = after_step(train_state.health, vector)
        sums, correct, count = vector[:-3], vector[-3], vector[-2]
        grads, state, _ = tree.from_vector(sums / count, (chosen, moved, count))
        of_loss = tree.map(lambda leaf: leaf.clamp(-stage.clamp, stage.clamp), grads) if stage.clamp else grads
        grads = _penalised(stage, of_loss, chosen, frozen, train_state.extra, classes)
        updates, opt_state = optimiser.update(grads, train_state.opt_state, chosen, rate)
        if stage.rows_trained == "new":
            updates = _of_new_rows(updates, classes)
        norms = [_norm(part, like=rate) for part in (grads, chosen, updates)]
        measures = Measures(sums[-1], correct.to(torch.int64), *norms)
        well = health.failed_step == NEVER
        chosen, state, opt_state = tree.map(
            lambda old, new: torch.where(well, new, old),
            (chosen, moving, train_state.opt_state),
            (optim.apply_updates(chosen, updates), state, opt_state),
        )
        params, state = stage.project(tree.merge(chosen, frozen)), tree.overlay(train_state.state, state)
        extra = train_state.extra
        if stage.track:
            of_all = tree.merge(of_loss, tree.map(torch.zeros_like, frozen))
            tracked = stage.track(extra, train_state.params, params, of_all, classes)
            extra = tree.map(lambda old, new: old if new is old else torch.where(well, new, old), extra, tracked)
        return TrainState(params, state, opt_state, health, extra), measures

    return StepParts(gradient, update)


def _penalised(
    stage: Stage, grads: tree.Tree, chosen: tree.Tree, frozen: tree.Tree, extra: tree.Tree, classes: Classes
) -> tree.Tree:
    """Returns the gradient of the loss plus the gradient of the stage's penalty.

    grads: of the loss, by `chosen`, the parameters that are trained; frozen: the others.
    """
    penalty = stage.penalty
    if penalty is None:
        return grads
    of_penalty = torch.func.grad(lambda chosen: penalty(tree.merge(chosen, frozen), extra, classes))(chosen)
    return tree.map(torch.add, grads, of_penalty)


def _moving(stage: Stage, state: tree.Tree) -> tree.Tree:
    """Returns the part of the state that isn't frozen. Without frozen parts it is not split, to be traced faster."""
    return state if stage.frozen is nothing else tree.partition(state, stage.frozen)[1]


def _of_new_rows(updates: tree.Tree, classes: Classes) -> tree.Tree:
    """Returns the updates, with 0 for the classifier's rows of all classes but this phase's new ones."""
    if "classifier" not in updates:
        return updates

    def masked(leaf: torch.Tensor) -> torch.Tensor:
        return torch.where(classes.new.view(-1, *(1,) * (leaf.ndim - 1)), leaf, 0.0)

    return {**updates, "classifier": tree.map(masked, updates["classifier"])}


def _norm(part: tree.Tree, like: torch.Tensor) -> torch.Tensor:
    """Returns the L2 norm of all numbers of a tree, 0 for an empty one, which has the dtype and device of `like`."""
    norms = [torch.linalg.vector_norm(leaf) for leaf in tree.leaves(part)]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros_like(like)


