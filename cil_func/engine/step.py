"""The training step: one pure function from a train state and a batch to the next train state."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange

from cil_func import model, optim, tree
from cil_func.data.resident import Batch
from cil_func.methods import Classes, Method, Outputs


class TrainState(NamedTuple):
    """Everything that a step changes. The classifier has its full width: rows of unseen classes are zero."""

    params: tree.Tree
    state: tree.Tree
    opt_state: tree.Tree


class Teacher(NamedTuple):
    """Last phase's finished model, with the classifier padded to the same width."""

    params: tree.Tree
    state: tree.Tree


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
        return rearrange(pixels, "b h w c -> b c h w").to(dtype)


def make(
    method: Method, optimiser: optim.Optimiser, preprocess: Preprocess, *, dtype: torch.dtype, norm_batch: int
) -> Callable:
    """The step of a method: (train_state, teacher or None, batch, classes, rate) -> (train_state, measures).

    dtype: of the convolutions; parameters, statistics, loss and update keep the parameters' own.
    norm_batch: how many images share batch norm's statistics, 0 for all. rate: a 0-d tensor.
    """

    def step(
        train_state: TrainState, teacher: Teacher | None, batch: Batch, classes: Classes, rate: torch.Tensor
    ) -> tuple[TrainState, Measures]:
        images = preprocess(batch.images, dtype)                                   # (B, 3, H, W)
        taught = None
        if teacher is not None:
            taught = Outputs(*model.apply(*teacher, images, train=False)[:2])
        chosen, frozen = tree.partition(train_state.params, method.trainable)

        def objective(chosen, state):
            params = tree.merge(chosen, frozen)
            logits, features, state = model.apply(params, state, images, train=True, norm_batch=norm_batch)
            loss = method.loss(Outputs(logits, features), taught, batch.labels, classes)
            return loss, (state, logits.detach())

        # The state is an argument, not a capture: torch.func refuses to write into captured tensors (timm's norm).
        grads, (loss, (state, logits)) = torch.func.grad_and_value(objective, has_aux=True)(
            chosen, train_state.state
        )
        updates, opt_state = optimiser.update(grads, train_state.opt_state, chosen, rate)
        params = method.project(tree.merge(optim.apply_updates(chosen, updates), frozen))
        return TrainState(params, state, opt_state), _measure(loss, logits, batch.labels, classes)

    return step


def start(
    method: Method, optimiser: optim.Optimiser, params: tree.Tree, state: tree.Tree
) -> TrainState:
    """The train state at the start of a phase: the optimiser anew, for the parameters that are trained.

    Copies: a first step whose student shares tensors with its teacher would be compiled as a graph of its own.
    """
    params, state = tree.map(torch.clone, (params, state))
    chosen, _ = tree.partition(params, method.trainable)
    return TrainState(params, state, optimiser.init(chosen))


def _measure(
    loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor, classes: Classes
) -> Measures:
    predictions = logits.masked_fill(~classes.seen, -torch.inf).argmax(dim=1)
    return Measures(loss.detach() * labels.shape[0], (predictions == labels).sum())
