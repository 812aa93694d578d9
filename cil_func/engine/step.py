"""The training step: one pure function from a train state and a batch to the next train state."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from cil_func import model, optim, tree
from cil_func.data.resident import Batch
from cil_func.methods import Classes, Method, Outputs, Targets

PADDING = -1  # the label of a row that only fills a batch up


class TrainState(NamedTuple):
    """Everything that a step changes. The classifier has its full width: rows of unseen classes are zero."""

    params: tree.Tree
    state: tree.Tree
    opt_state: tree.Tree


class Measures(NamedTuple):
    """Sums over images, 0-d tensors on the device, so that adding them up needs no host sync."""

    loss: torch.Tensor
    correct: torch.Tensor


class Preprocess(NamedTuple):
    """(B, H, W, 3) uint8 -> (B, 3, H, W) normalised; mean and std are (3,), of pixels scaled to 0..1."""

    mean: torch.Tensor
    std: torch.Tensor

    def __call__(self, images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        # Computed in the statistics' dtype, then rounded once. The axes move without a copy: channels_last.
        pixels = (images.to(self.mean.dtype) / 255 - self.mean) / self.std
        return pixels.permute(0, 3, 1, 2).to(dtype)


def make(
    method: Method,
    optimiser: optim.Optimiser,
    preprocess: Preprocess,
    *,
    dtype: torch.dtype,
    norm_batch: int,
    padded: bool = False,
) -> Callable:
    """The step of a method: (train_state, taught or None, batch, classes, rate) -> (train_state, measures).

    taught: what the teacher says of the batch. It doesn't change with the student, so it is computed ahead,
    by the forward graph that evaluation uses: the step compiles in two thirds of the time, and one graph
    serves the phases with a teacher and the one before them. rate: a 0-d tensor.
    dtype: of the convolutions; parameters, statistics, loss and update keep the parameters' own.
    norm_batch: how many images share batch norm's statistics, 0 for all; the last group may be short.
    padded: whether a batch may hold padding (`pad`), which then counts nowhere.
    """

    def step(
        train_state: TrainState, taught: Outputs | None, batch: Batch, classes: Classes, rate: torch.Tensor
    ) -> tuple[TrainState, Measures]:
        short = -len(batch.labels) % norm_batch if 0 < norm_batch < len(batch.labels) else 0
        taught, batch = pad(taught, batch, short)
        images = preprocess(batch.images, dtype)                                   # (B, 3, H, W)
        rows = batch.labels != PADDING if padded or short else None                      # (B,)
        valid = None if rows is None else rows.to(rate.dtype)                      # (B,)
        targets = Targets(batch.labels if rows is None else batch.labels.clamp(min=0), rows)
        chosen, frozen = tree.partition(train_state.params, method.trainable)

        def objective(chosen, state):
            params = tree.merge(chosen, frozen)
            logits, features, state = model.apply(
                params, state, images, train=True, norm_batch=norm_batch, valid=valid
            )
            loss = method.loss(Outputs(logits, features), taught, targets, classes)
            return loss, (state, logits.detach())

        # The state is an argument, not a capture: torch.func refuses to write into captured tensors (timm's norm).
        grads, (loss, (state, logits)) = torch.func.grad_and_value(objective, has_aux=True)(
            chosen, train_state.state
        )
        updates, opt_state = optimiser.update(grads, train_state.opt_state, chosen, rate)
        params = method.project(tree.merge(optim.apply_updates(chosen, updates), frozen))
        return TrainState(params, state, opt_state), _measure(loss, logits, batch.labels, classes)

    return step


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
    return TrainState(params, state, optimiser.init(chosen))


def _measure(
    loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, classes: Classes
) -> Measures:
    predictions = logits.masked_fill(~classes.seen, -torch.inf).argmax(dim=1)
    return Measures(loss.detach() * (labels != PADDING).sum(), (predictions == labels).sum())
