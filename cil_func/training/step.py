"""The training step: one pure function from a train state and a batch to the next train state.

It has two parts. `gradient` returns a flat vector of sums over the images of a batch: gradients, new statistics and
measures. `update` takes the vector and returns the next train state. Between them, several processes add their vectors
up: one collective a step.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch

from cil_func import optim, tree
from cil_func.data.batch import AnyBatch, Batch, ReplayBatch, Replayed
from cil_func.methods.base import Stage, Targets
from cil_func.methods.checks import scalar
from cil_func.networks import layers
from cil_func.networks.network import Network
from cil_func.networks.outputs import Classes, Outputs
from cil_func.training import gradients, norm_groups, replaying
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


class ReplayGradient(Protocol):
    """(train_state, group, classes) -> (L,): of a group of exemplars beside the batch, what `Gradient` is of the batch.

    group: without its first axis. The result is the mean gradient and new state, times the number of images without
    padding, and that number: as long as the batch's vector without its last three numbers.
    """

    def __call__(self, train_state: TrainState, group: Replayed, classes: Classes, /) -> torch.Tensor: ...


class StepParts(NamedTuple):
    """The parts of a step, as functions.

    replayed: for a stage with `Stage.replay`, else None. groups: how many groups it has at most, in any phase. One that
    a phase lacks is as one of no images. views: see `methods.base.Stage`. norm_batch: see `make`.
    """

    gradient: Gradient
    update: Update
    replayed: ReplayGradient | None = None
    groups: int = 0
    views: int = 1
    norm_batch: int = 0


class Step(Protocol):
    """(train_state, taught, batch, classes, rate) -> (train_state, measures): a whole step.

    taught: the teacher's outputs for the batch, or None. rate: the learning rate, 0-d.
    """

    def __call__(
        self, train_state: TrainState, taught: Outputs | None, batch: AnyBatch, classes: Classes, rate: torch.Tensor, /
    ) -> tuple[TrainState, Measures]: ...


class Reduce(Protocol):
    """(vector of this process) -> the sum of all processes' vectors, maybe written into the same memory."""

    def __call__(self, vector: torch.Tensor, /) -> torch.Tensor: ...


def join(parts: StepParts, reduce: Reduce = lambda vector: vector, *, accumulate: int = 1) -> Step:
    """Returns the whole step.

    reduce: the default is for one process.
    accumulate: into how many parts the batch is cut, at most, see `norm_groups.rows_of_part`. Their vectors are added
    up, so that only one part's activations are in memory at a time.
    """

    def step(
        train_state: TrainState, taught: Outputs | None, batch: AnyBatch, classes: Classes, rate: torch.Tensor
    ) -> tuple[TrainState, Measures]:
        replayed = None
        if isinstance(batch, ReplayBatch):
            replayed, batch = batch.replayed, Batch(batch.images, batch.labels)
        if accumulate == 1:
            vector, moved = parts.gradient(train_state, taught, batch, classes)
        else:
            size = norm_groups.rows_of_part(len(batch.labels), accumulate, unit=parts.norm_batch or parts.views)
            cuts = [slice(start, start + size) for start in range(0, len(batch.labels), size)]
            rest: Iterator[tuple[Any, Batch]] = (tree.map(lambda leaf, at=at: leaf[at], (taught, batch)) for at in cuts)
            vector, moved = parts.gradient(train_state, *next(rest), classes)
            for piece in rest:
                sums, moved = parts.gradient(train_state, *piece, classes)
                vector = vector + sums
        if parts.replayed:
            vector = replaying.beside(vector, parts.replayed, train_state, replayed, classes, groups=parts.groups)
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
    groups = replaying.groups_of(stage.replay, network.num_phases)
    loss_beside: Any = stage.replay and stage.replay.loss
    loss_of_batch = norm_groups.by_group(stage.loss, norm_batch) if stage.views > 1 else stage.loss

    def differentiated(train_state: TrainState, given: tree.Tree, batch: AnyBatch, classes: Classes, loss, padded):
        """Returns (gradients, new state, loss, logits, batch with padding). given: what the loss has beside logits."""
        short = -len(batch.labels) % norm_batch if 0 < norm_batch < len(batch.labels) else 0
        given, batch = pad(given, batch, short)
        images = preprocess(batch.images, dtype)                                   # (B, 3, H, W)
        rows = batch.labels != PADDING if padded or short else None                      # (B,)
        valid = None if rows is None else rows.to(preprocess.mean.dtype)           # (B,)
        targets = Targets(batch.labels if rows is None else batch.labels.clamp(min=0), rows)
        chosen, frozen = tree.partition(train_state.params, stage.trains)
        statistics: layers.Mode = {"train": False}
        if stage.norm == "train":
            statistics = {"train": True, "norm_batch": norm_batch, "valid": valid}

        def objective(weights, buffers):
            params = tree.merge(tree.unflatten(weights, chosen), frozen)
            state = tree.unflatten(buffers, train_state.state)
            own, aux, state = network.run(params["backbone"], state, images, **statistics)
            others = given.features if isinstance(given, Outputs) and not stage.compresses else None
            features = network.place(own, 0 if stage.compresses else classes.now, others)
            student = network.outputs(params, features, classes, aux)
            return scalar(loss(student, given, targets, classes), preprocess.mean), (state, student.logits.detach())

        # The state is given, for torch.func refuses to write into captured tensors (timm's norm). Lists trace faster.
        given_leaves = tree.leaves(chosen), tree.leaves(train_state.state)
        grads, (value, (state, logits)) = torch.func.grad_and_value(objective, has_aux=True)(*given_leaves)
        return grads, gradients.moving(stage, state), value, logits, batch

    def gradient(
        train_state: TrainState, taught: Outputs | None, batch: Batch, classes: Classes
    ) -> tuple[torch.Tensor, tree.Tree]:
        grads, state, loss, logits, batch = differentiated(train_state, taught, batch, classes, loss_of_batch, padded)
        predictions = logits.masked_fill(~classes.seen, -torch.inf).argmax(dim=1)  # (B,)
        correct = (predictions == batch.labels).sum(dtype=loss.dtype)
        count = (batch.labels != PADDING).sum(dtype=loss.dtype)
        means = tree.to_vector((grads, state, loss.detach()))
        return torch.cat([means * count, torch.stack([correct, count, torch.zeros_like(count)])]), state

    def replayed(train_state: TrainState, group: Replayed, classes: Classes) -> torch.Tensor:
        def loss(student, stored, targets, classes):
            return loss_beside(student, stored, targets, classes, group.group)

        batch, pads = Batch(group.images, group.labels), network.backbone.pads()
        grads, state, *_, batch = differentiated(train_state, group.stored, batch, classes, loss, pads)
        count = (batch.labels != PADDING).sum(dtype=preprocess.mean.dtype)
        return torch.cat([tree.to_vector((grads, state)) * count, count[None]])

    def update(
        train_state: TrainState, vector: torch.Tensor, moved: tree.Tree, classes: Classes, rate: torch.Tensor
    ) -> tuple[TrainState, Measures]:
        chosen, frozen = tree.partition(train_state.params, stage.trains)
        health = after_step(train_state.health, vector)
        sums, correct, count = vector[:-3], vector[-3], vector[-2]
        means = sums / count
        if stage.replay is not None:
            sums, means = replaying.combined(stage.replay, sums, count, groups=groups, trained=tree.size(chosen))
        # On vectors: as many operations for each leaf would be most of a compiled step's code.
        moving = tree.ordered(gradients.moving(stage, train_state.state), moved)
        weights, statistics = (tree.to_vector(part, like=vector) for part in (chosen, moving))
        of_loss, moved_statistics = means[: len(weights)], means[len(weights) : -1]
        of_loss = of_loss.clamp(-stage.clamp, stage.clamp) if stage.clamp else of_loss
        grads = gradients.penalised(stage, of_loss, chosen, frozen, train_state.extra, classes)
        updates, opt_state, moved_opt_state = gradients.updates(
            stage, optimiser, grads, weights, chosen, train_state.opt_state, classes, rate
        )
        measures = Measures(sums[-1], correct.long(), *map(torch.linalg.vector_norm, (grads, weights, updates)))
        well = health.failed_step == NEVER
        if_well = lambda old, new: torch.where(well, new, old)  # noqa: E731
        old, new = (weights, statistics, opt_state), (weights + updates, moved_statistics, moved_opt_state)
        weights, statistics, opt_state = tree.map(if_well, old, new)
        counts = tree.map(lambda old, new: old if old.is_floating_point() else if_well(old, new), moving, moved)
        if optimiser.takes_vectors:
            opt_state = gradients.restored(opt_state, train_state.opt_state, chosen)
        chosen, state = tree.from_vector(weights, chosen), tree.from_vector(statistics, counts)
        params, state = stage.project(tree.merge(chosen, frozen)), tree.overlay(train_state.state, state)
        extra = train_state.extra
        if stage.track:
            of_all = tree.merge(tree.from_vector(of_loss, chosen), tree.map(torch.zeros_like, frozen))
            found = gradients.tracked(stage.track, extra, (train_state.params, params, of_all), classes)
            extra = tree.map(lambda old, new: old if new is old else if_well(old, new), extra, found)
        return TrainState(params, state, opt_state, health, extra), measures

    return StepParts(gradient, update, replayed if stage.replay else None, groups, stage.views, norm_batch)
