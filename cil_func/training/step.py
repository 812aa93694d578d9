"""The training step: one pure function from a train state and a batch to the next train state.

It has two parts. `gradient` ends in one flat vector of sums over the images of a batch; `update` takes the vector
and moves everything. Between them, several processes add their vectors up: one collective a step.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from cil_func import model, optim, tree
from cil_func.data.batches import Batch
from cil_func.methods import Classes, Method, Outputs, Targets
from cil_func.networks.timm_skeleton import OFF, Drop

DTYPES = {  # precision -> (parameters, statistics, loss and update; convolutions)
    "float64": (torch.float64, torch.float64),
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.float32, torch.bfloat16),
}
PADDING = -1  # the label of a row that only fills a batch up
NEVER = -1  # Health.failed_step of a training that is well


class Health(NamedTuple):
    """0-d int64 tensors: steps taken; the step (0, 1, ...) whose sums were not finite, or NEVER; which entry of the
    vector was the first of them (`entry_name`)."""

    steps: torch.Tensor
    failed_step: torch.Tensor
    entry: torch.Tensor


class TrainState(NamedTuple):
    """Everything that a step changes. The classifier has its full width: rows of unseen classes are zero."""

    params: tree.Tree
    state: tree.Tree
    opt_state: tree.Tree
    health: Health | None = None


class Measures(NamedTuple):
    """Sums over images, 0-d tensors on the device, so that adding them up needs no host sync."""

    loss: torch.Tensor
    correct: torch.Tensor


class Preprocess(NamedTuple):
    """(B, H, W, 3) uint8 -> (B, 3, H, W) normalised; mean and std are (3,), of pixels scaled to 0..1.

    Raises ValueError for images of another type: floating-point pixels may be scaled to 0..1 already.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __call__(self, images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if images.dtype != torch.uint8:
            raise ValueError(f"Preprocess: images are {images.dtype}; give the pixels as uint8, 0 to 255")
        # Computed in the statistics' dtype, then rounded once. The axes move without a copy: channels_last.
        pixels = (images.to(self.mean.dtype) / 255 - self.mean) / self.std
        return pixels.permute(0, 3, 1, 2).to(dtype)


class StepParts(NamedTuple):
    """gradient(train_state, taught or None, batch, classes) -> (vector, moved)
    update(train_state, vector, moved, rate) -> (train_state, measures)

    vector: (V,), sums over the batch's images of the gradients, the new statistics, the loss and whether it was right;
    then the number of images, and a 0 that `parallel.processes` signals by. moved: the new statistics themselves.
    """

    gradient: Callable
    update: Callable


def join(parts: StepParts, reduce: Callable[[torch.Tensor], torch.Tensor] = lambda vector: vector) -> Callable:
    """The whole step: (train_state, taught or None, batch, classes, rate) -> (train_state, measures).

    reduce: the vector of this process -> the sum of all processes' vectors.
    """

    def step(
        train_state: TrainState, taught: Outputs | None, batch: Batch, classes: Classes, rate: torch.Tensor
    ) -> tuple[TrainState, Measures]:
        vector, moved = parts.gradient(train_state, taught, batch, classes)
        return parts.update(train_state, reduce(vector), moved, rate)

    return step


def make(
    method: Method,
    optimiser: optim.Optimiser,
    preprocess: Preprocess,
    *,
    dtype: torch.dtype,
    norm_batch: int,
    padded: bool = False,
    drop: Drop = OFF,
) -> StepParts:
    """The step of a method.

    taught: what the teacher says of the batch. It doesn't change with the student, so it is computed ahead,
    by the forward graph that evaluation uses: the step compiles in two thirds of the time, and one graph
    serves the phases with a teacher and the one before them. rate: a 0-d tensor.
    dtype: of the convolutions; parameters, statistics, loss and update keep the parameters' own.
    norm_batch: how many images share batch norm's statistics, 0 for all; the last group may be short.
    padded: whether a batch may hold padding (`pad`), which then counts nowhere.
    drop: rates of dropout and stochastic depth of a timm backbone.
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
        chosen, frozen = tree.partition(train_state.params, method.trainable)

        def objective(chosen, state):
            params = tree.merge(chosen, frozen)
            logits, features, state = model.apply(
                params, state, images, train=True, norm_batch=norm_batch, valid=valid, drop=drop
            )
            loss = method.loss(Outputs(logits, features), taught, targets, classes)
            return loss, (state, logits.detach())

        # The state is an argument, not a capture: torch.func refuses to write into captured tensors (timm's norm).
        grads, (loss, (state, logits)) = torch.func.grad_and_value(objective, has_aux=True)(
            chosen, train_state.state
        )
        predictions = logits.masked_fill(~classes.seen, -torch.inf).argmax(dim=1)  # (B,)
        correct = (predictions == batch.labels).sum(dtype=loss.dtype)
        count = (batch.labels != PADDING).sum(dtype=loss.dtype)
        means = tree.to_vector((grads, state, loss.detach()))
        return torch.cat([means * count, torch.stack([correct, count, torch.zeros_like(count)])]), state

    def update(
        train_state: TrainState, vector: torch.Tensor, moved: tree.Tree, rate: torch.Tensor
    ) -> tuple[TrainState, Measures]:
        chosen, frozen = tree.partition(train_state.params, method.trainable)
        health = _look(train_state.health, vector)
        sums, correct, count = vector[:-3], vector[-3], vector[-2]
        grads, state, _ = tree.from_vector(sums / count, (chosen, moved, count))
        updates, opt_state = optimiser.update(grads, train_state.opt_state, chosen, rate)
        well = health.failed_step == NEVER
        chosen, state, opt_state = tree.map(
            lambda old, new: torch.where(well, new, old),
            (chosen, train_state.state, train_state.opt_state),
            (optim.apply_updates(chosen, updates), state, opt_state),
        )
        params = method.project(tree.merge(chosen, frozen))
        return TrainState(params, state, opt_state, health), Measures(sums[-1], correct.to(torch.int64))

    return StepParts(gradient, update)


def _look(health: Health, vector: torch.Tensor) -> Health:
    """One step further: whether the vector is the first that is not finite, and where."""
    size = len(vector)
    entry = torch.where(vector.isfinite(), size, torch.arange(size, device=vector.device)).amin()
    first = (entry < size) & (health.failed_step == NEVER)
    return Health(
        health.steps + 1,
        torch.where(first, health.steps, health.failed_step),
        torch.where(first, entry, health.entry),
    )


def entry_name(train_state: TrainState, entry: int, method: Method) -> str:
    """What an entry of the vector is a sum of: "the loss", "the gradient of PATH" or "the statistics PATH"."""
    chosen, _ = tree.partition(train_state.params, method.trainable)
    for what, part in (("the gradient of ", chosen), ("the statistics ", train_state.state)):
        for path, leaf in tree.to_paths(part).items():
            if not leaf.is_floating_point():
                continue
            if entry < leaf.numel():
                return what + path
            entry -= leaf.numel()
    return "the loss"


def pad(taught: Outputs | None, batch: Batch, count: int) -> tuple[Outputs | None, Batch]:
    """Adds `count` rows of padding: black images labelled -1, of which the teacher says 0."""
    if count == 0:
        return taught, batch

    def filled(leaf: torch.Tensor, value: float = 0) -> torch.Tensor:
        return F.pad(leaf, (0, 0) * (leaf.ndim - 1) + (0, count), value=value)

    padded = Batch(filled(batch.images), filled(batch.labels, PADDING))
    return (None if taught is None else Outputs(*map(filled, taught))), padded


def start(
    method: Method, optimiser: optim.Optimiser, params: tree.Tree, state: tree.Tree
) -> TrainState:
    """The train state at the start of a phase: copies, and the optimiser anew for the parameters that are trained."""
    params, state = tree.map(torch.clone, (params, state))
    chosen, _ = tree.partition(params, method.trainable)
    health = Health(*torch.tensor((0, NEVER, NEVER), device=tree.leaves(params)[0].device).unbind())
    return TrainState(params, state, optimiser.init(chosen), tree.map(torch.clone, health))


def nothing_measured(train_state: TrainState) -> Measures:
    """Sums over no image."""
    some = tree.leaves(train_state.params)[0]
    return Measures(some.new_zeros(()), torch.zeros((), dtype=torch.int64, device=some.device))

