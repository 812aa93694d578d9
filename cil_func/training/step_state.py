"""Everything that a step changes, as one value, and what it measures."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from cil_func import optim, tree
from cil_func.data.batches import Batch
from cil_func.methods.base import Stage
from cil_func.networks.outputs import Outputs

PADDING = -1  # the label of a row that only fills a batch up
NEVER = -1  # Health.failed_step of a training that is well


class Health(NamedTuple):
    """0-d int64 tensors: steps taken; the step (0, 1, ...) whose sums were not finite, or NEVER; which entry of the
    vector was the first of them (`entry_name`)."""

    steps: torch.Tensor
    failed_step: torch.Tensor
    entry: torch.Tensor


class TrainState(NamedTuple):
    """Everything that a step changes, and what it reads of earlier phases.

    The classifier has its full width: rows of unseen classes are zero. health: None in tests that don't look at it.
    extra: what the method remembers (`methods.base.Extra`), {} if it remembers nothing; a step leaves it as it is.
    """

    params: tree.Tree
    state: tree.Tree
    opt_state: tree.Tree
    health: Health | None = None
    extra: tree.Tree = {}  # noqa: RUF012 (never changed in place)


class Measures(NamedTuple):
    """What a step measures: 0-d tensors on the device, so that adding them up over steps needs no host sync.

    loss, correct: sums over the images of all processes, correct as int64. gradient, weights, update: the L2 norms over
    all trained parameters of the gradient, of the parameters before the update, and of the update.
    """

    loss: torch.Tensor
    correct: torch.Tensor
    gradient: torch.Tensor
    weights: torch.Tensor
    update: torch.Tensor


def start(
    stage: Stage, optimiser: optim.Optimiser, params: tree.Tree, state: tree.Tree, extra: tree.Tree | None = None
) -> TrainState:
    """Returns the train state that a stage begins with.

    It holds copies of params and state, and the optimiser anew for the parameters that are trained.
    """
    params, state = tree.map(torch.clone, (params, state))
    chosen, _ = tree.partition(params, stage.trainable)
    health = Health(*torch.tensor((0, NEVER, NEVER), device=tree.leaves(params)[0].device).unbind())
    return TrainState(params, state, optimiser.init(chosen), tree.map(torch.clone, health), extra or {})


def nothing_measured(train_state: TrainState) -> Measures:
    """Returns the sums over no step."""
    some = tree.leaves(train_state.params)[0]
    zeros = [some.new_zeros(()) for _ in range(4)]
    return Measures(zeros[0], torch.zeros((), dtype=torch.int64, device=some.device), *zeros[1:])


def pad(taught: Outputs | None, batch: Batch, count: int) -> tuple[Outputs | None, Batch]:
    """Adds `count` rows of padding: black images labelled -1, of which the teacher says 0."""
    if count == 0:
        return taught, batch

    def filled(leaf: torch.Tensor, value: float = 0) -> torch.Tensor:
        return F.pad(leaf, (0, 0) * (leaf.ndim - 1) + (0, count), value=value)

    padded = Batch(filled(batch.images), filled(batch.labels, PADDING))
    return (None if taught is None else tree.map(filled, taught)), padded


def after_step(health: Health, vector: torch.Tensor) -> Health:
    """Returns the health after one more step: whether its vector of sums is the first that is not finite, and where."""
    size = len(vector)
    entry = torch.where(vector.isfinite(), size, torch.arange(size, device=vector.device)).amin()
    first = (entry < size) & (health.failed_step == NEVER)
    return Health(
        health.steps + 1,
        torch.where(first, health.steps, health.failed_step),
        torch.where(first, entry, health.entry),
    )


def entry_name(train_state: TrainState, entry: int, stage: Stage) -> str:
    """What an entry of the vector is a sum of: "the loss", "the gradient of PATH" or "the statistics PATH"."""
    chosen, _ = tree.partition(train_state.params, stage.trainable)
    for what, part in (("the gradient of ", chosen), ("the statistics ", train_state.state)):
        for path, leaf in tree.to_paths(part).items():
            if not leaf.is_floating_point():
                continue
            if entry < leaf.numel():
                return what + path
            entry -= leaf.numel()
    return "the loss"
