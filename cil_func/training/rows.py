"""Which images a stage of a phase trains on, as rows of the training set."""

import math

import torch

from cil_func import memory, rng
from cil_func.data.scenario import Phase, Scenario
from cil_func.memory import Memory
from cil_func.methods.base import Method, Stage


def of_stage(
    stage: Stage, method: Method, scenario: Scenario, phase: Phase, exemplars: Memory, *, key: int,
    chosen: Memory | None = None,
) -> torch.Tensor:  # fmt: skip
    """Returns the rows (M,) of the training set that a stage trains on, int64.

    method: of which `hold_out` is used. exemplars: of the old classes. key: the phase's. chosen: for a stage on
    "balanced" rows, {label: rows, in order of rank} of the new classes; None: none.
    """
    if stage.rows == "all":
        return torch.cat([earlier.train_rows for earlier in scenario.phases[: phase.index + 1]])
    if stage.rows == "arrived":
        return phase.train_rows
    if stage.rows == "balanced":
        return memory.rows(exemplars | (chosen or {}))
    held = held_out(method, scenario, phase, exemplars, key=key)
    if stage.rows == "held_out":
        return held
    rows = torch.cat([phase.train_rows, memory.rows(exemplars)])
    return rows[~torch.isin(rows, held)] if len(held) else rows


def held_out(method: Method, scenario: Scenario, phase: Phase, exemplars: Memory, *, key: int) -> torch.Tensor:
    """Returns the rows (M,), int64, that are kept from training for a later stage.

    There are none in phase 0, or if `Method.hold_out` is 0. Of each old class the last ceil(hold_out * kept) of its
    `kept` exemplars, but one of them stays in training. Of each new class as many images as the largest of these
    numbers, drawn by `key`, the phase's, but at most half of the class.
    """
    if not (method.hold_out and exemplars):
        return torch.empty(0, dtype=torch.int64)
    old = {
        label: kept[len(kept) - held_of_old(method.hold_out, len(kept)) :]
        for label, kept in exemplars.items()
        if len(kept) > 1
    }
    count = max(map(len, old.values()), default=0)
    labels, new = scenario.train_labels[phase.train_rows], []
    for label in labels.unique().tolist():
        own = phase.train_rows[labels == label]
        order = torch.randperm(len(own), generator=rng.generator(rng.fold_in(key, "held_out", label)))
        new.append(own[order[: held_of_new(count, len(own))]])
    return torch.cat([memory.rows(old), *new])


def held_of_old(share: float, kept: int) -> int:
    """Returns how many of an old class's `kept` exemplars are held out; share: `Method.hold_out`."""
    return max(0, min(kept - 1, math.ceil(round(share * kept, 9))))  # rounded: 0.28 * 25 is 7.000000000000001


def held_of_new(most: int, count: int) -> int:
    """Returns how many of a new class's `count` images are held out; most: the largest number of an old class."""
    return min(most, count // 2)
