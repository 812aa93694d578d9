"""Exemplars beside a batch: their gradients, added to a step's vector of sums and combined with the batch's."""

from typing import Protocol

import torch

from cil_func import tree
from cil_func.data.batch import Replayed
from cil_func.methods.base import Replay
from cil_func.networks.outputs import Classes
from cil_func.training.step_state import TrainState


class OfGroup(Protocol):
    """(train_state, group, classes) -> (L,): see `step.ReplayGradient`."""

    def __call__(self, train_state: TrainState, group: Replayed, classes: Classes, /) -> torch.Tensor: ...


def groups_of(replay: Replay | None, num_phases: int) -> int:
    """Returns how many groups a step has at most, in any phase of a run; 0 without `replay`."""
    if replay is None:
        return 0
    return max(1, num_phases - 1) if replay.groups == "phases" else replay.groups


def beside(
    vector: torch.Tensor, of_group: OfGroup, train_state: TrainState, replayed: Replayed | None, classes: Classes, *,
    groups: int,
) -> torch.Tensor:  # fmt: skip
    """Returns a step's vector with the sums of the groups put before its last three numbers.

    vector: see `step.Gradient`. of_group: gives the sums of a group, one number for all but those three. replayed: the
    groups; None: there are none. groups: how many the result has, 0 for one that isn't there.
    """
    sums = vector.new_zeros(groups, len(vector) - 3)
    if replayed is not None:
        each = [tree.map(lambda leaf, at=at: leaf[at], replayed) for at in range(len(replayed.group))]
        found = torch.stack([of_group(train_state, group, classes) for group in each])
        sums = sums.index_copy(0, replayed.group, found)
    return torch.cat([vector[:-3], sums.flatten(), vector[-3:]])


def combined(
    replay: Replay, sums: torch.Tensor, count: torch.Tensor, *, groups: int, trained: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (the batch's sums, means): gradient, new state and loss, each as `step.Gradient` has them in its vector.

    sums: the vector of all processes that `beside` has made, without its last three numbers. count: of the batch's
    images. groups: as in `beside`. trained: how many numbers the gradient has.
    The means have `replay.combine`'s gradient, and the state's mean over all images, the groups' included.
    """
    own, others = sums[: len(sums) // (groups + 1)], sums[len(sums) // (groups + 1) :].unflatten(0, (groups, -1))
    counts = others[:, -1]  # (G,)
    references = others[:, :trained] / counts.clamp(min=1)[:, None]  # (G, V)
    gradient = replay.combine(own[:trained] / count, references)
    state = (own[trained:-1] + others[:, trained:-1].sum(0)) / (count + counts.sum())
    return own, torch.cat([gradient, state, own[-1:] / count])
