"""Everything that a step changes, as one value, and what it measures."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from cil_func import optim, tree
from cil_func.data.batch import PADDING, AnyBatch
from cil_func.methods.base import Stage, nothing
from cil_func.methods.checks import tensors

NEVER = -1  # Health.failed_step of a training that is well


class Health(NamedTuple):
    """Whether the steps of a stage were finite: three 0-d int64 tensors on the device.

    steps: how many were taken. failed_step: the first step (0, 1, ...) whose vector of sums held a number that is not
    finite, or NEVER. entry: the index of the first such number in that vector, see `entry_name`; or NEVER.
    """

    steps: torch.Tensor
    failed_step: torch.Tensor
    entry: torch.Tensor


class TrainState(NamedTuple):
    """Everything that a step changes. It only reads `extra`, unless the stage has a `methods.base.Track`.

    params: the weights, those that aren't trained included; the classifier has a row for each of the run's C classes,
    rows of unseen classes are zero.
    state: batch norm's statistics and other buffers.
    opt_state: the optimiser's state, for the parameters that are trained.
    health: whether all steps were finite.
    extra: what the method remembers (`methods.extra.Extra`), {} if nothing. The teacher is not in it:
    a step gets the teacher's outputs with the batch.
    """

    params: tree.Tree
    state: tree.Tree
    opt_state: tree.Tree
    health: Health
    extra: tree.Tree = {}  # noqa: RUF012 (never changed in place)


class Measures(NamedTuple):
    """What a step measures: 0-d tensors on the device, so that adding them up over steps needs no host sync.

    loss, correct: sums over the images of all processes: of the loss, and of how many were classified rightly (int64).
    gradient, weights, update: the L2 norms over all trained parameters of the gradient, of the parameters before the
    update, and of the update.
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

    params, state: of the model, its classifier padded to the run's C classes; copied but for what is frozen, which
    stays shared. extra: what the method remembers, which isn't copied; None: nothing. The optimiser starts anew, for
    the parameters that the stage trains. Raises OwnCodeError if its state is no dict of tensors.
    """
    params, state = (_copied(part, stage) for part in (params, state))
    chosen, _ = tree.partition(params, stage.trains)
    device = tree.leaves(params)[0].device
    health = Health(*torch.tensor((0, NEVER, NEVER), device=device).unbind())
    opt_state = tensors(optimiser.init(chosen), "optim.name: init of the optimiser", device)
    return TrainState(params, state, opt_state, tree.map(torch.clone, health), extra or {})


def apart(train_state: TrainState, before: TrainState) -> TrainState:
    """Returns what a step returned with copies of its parameters, statistics and optimiser's state.

    before: what the step was given. What it handed on as it was is not copied.
    A step's leaves are views of vectors. As copies they begin at an aligned address, as those of a loaded run do:
    elsewhere a matrix product may add up in another order, and a run that goes on has to have the same bits.
    """

    def copied(name: str) -> tree.Tree:
        given = getattr(before, name), getattr(train_state, name)
        return tree.map(lambda old, new: new if new is old else new.clone(), *given)

    return train_state._replace(**{name: copied(name) for name in ("params", "state", "opt_state")})


def _copied(part: tree.Tree, stage: Stage) -> tree.Tree:
    """Returns a tree with copies of all leaves but the frozen ones, in the order of `part`."""
    if stage.frozen is nothing:
        return tree.map(torch.clone, part)
    _, moving = tree.partition(part, stage.frozen)
    return tree.overlay(part, tree.map(torch.clone, moving))


def nothing_measured(train_state: TrainState) -> Measures:
    """Returns measures that are all 0, on the parameters' device and, but for `correct`, of their dtype."""
    some = tree.leaves(train_state.params)[0]
    zeros = [some.new_zeros(()) for _ in range(4)]
    return Measures(zeros[0], torch.zeros((), dtype=torch.int64, device=some.device), *zeros[1:])


def pad(taught: tree.Tree, batch: AnyBatch, count: int) -> tuple[tree.Tree, AnyBatch]:
    """Returns (taught, batch) with `count` rows of padding added: black images labelled PADDING, teacher's outputs 0.

    taught: the teacher's outputs for the batch's images; None, which stays None: there is no teacher.
    """
    if count == 0:
        return taught, batch

    def filled(leaf: torch.Tensor, value: float = 0) -> torch.Tensor:
        return F.pad(leaf, (0, 0) * (leaf.ndim - 1) + (0, count), value=value)

    padded = batch._replace(images=filled(batch.images), labels=filled(batch.labels, PADDING))
    return (None if taught is None else tree.map(filled, taught)), padded


def after_step(health: Health, vector: torch.Tensor) -> Health:
    """Returns the health after one more step.

    vector: (V,), the step's sums over the images of all processes (`step.StepParts`). If it is the first one with a
    number that is not finite, the result names this step, and the first such entry.
    """
    size = len(vector)
    entry = torch.where(vector.isfinite(), size, torch.arange(size, device=vector.device)).amin()
    first = (entry < size) & (health.failed_step == NEVER)
    return Health(
        health.steps + 1,
        torch.where(first, health.steps, health.failed_step),
        torch.where(first, entry, health.entry),
    )


def entry_name(train_state: TrainState, entry: int, stage: Stage) -> str:
    """Returns what the entry of that index in a step's vector is a sum of.

    Which is "the gradient of PATH", "the statistics PATH" or "the loss". The vector has the gradients of the parameters
    that `stage` trains, the floating-point statistics that aren't frozen, the loss, and then counts, for which this
    says "the loss" too.
    """
    chosen, _ = tree.partition(train_state.params, stage.trains)
    _, moving = tree.partition(train_state.state, stage.frozen)
    for what, part in (("the gradient of ", chosen), ("the statistics ", moving)):
        for path, leaf in tree.to_paths(part).items():
            if not leaf.is_floating_point():
                continue
            if entry < leaf.numel():
                return what + path
            entry -= leaf.numel()
    return "the loss" if not (stage.replay and entry) else "a gradient of the exemplars beside a batch"
