"""Counts the images that the stages of a run train on, before it trains."""

import torch

from cil_func import memory
from cil_func.experiment import Experiment
from cil_func.methods.base import Stage
from cil_func.training import rows


def train_images(experiment: Experiment) -> list[int]:
    """Returns for each phase how many images an epoch of its first stage has, exemplars included."""
    return [stage_images(experiment, experiment.method.main, phase.index) for phase in experiment.scenario.phases]


def stage_images(experiment: Experiment, stage: Stage, index: int) -> int:
    """Returns how many images an epoch of `stage` has in phase `index`; 0: the stage is left out there."""
    return stage.views * _stage_rows(experiment, stage, index)


def _stage_rows(experiment: Experiment, stage: Stage, index: int) -> int:
    """Returns how many different images that are."""
    new = [len(phase.train_rows) for phase in experiment.scenario.phases]
    if stage.rows == "all":
        return sum(new[: index + 1])
    if stage.rows == "arrived":
        return new[index]
    kept, phase = exemplars(experiment, index), experiment.scenario.phases[index]
    if stage.rows == "balanced":
        quota, counts = max(kept, default=0), _counts(experiment)
        first = sum(experiment.sizes(phase)[:-1])
        return sum(kept) + sum(min(quota, count) for count in counts[first : first + len(phase.classes)])
    held = _held_out(experiment, index)
    return held if stage.rows == "held_out" else new[index] + sum(kept) - held


def _held_out(experiment: Experiment, index: int) -> int:
    """Returns how many images phase `index` keeps from training; see `training.rows.held_out`."""
    share, kept = experiment.method.hold_out, exemplars(experiment, index)
    if not (share and kept):
        return 0
    old = [rows.held_of_old(share, count) for count in kept]
    first = sum(experiment.sizes(experiment.scenario.phases[index])[:-1])
    new = _counts(experiment)[first : first + len(experiment.scenario.phases[index].classes)]
    return sum(old) + sum(rows.held_of_new(max(old), count) for count in new)


def exemplars(experiment: Experiment, index: int) -> list[int]:
    """Returns for each old class how many exemplars phase `index` starts with; [] if there are no exemplars.

    index: may be the number of phases, for what the last one leaves.
    """
    if index == 0 or not experiment.method.uses_memory:
        return []
    seen = sum(experiment.sizes(experiment.scenario.phases[index - 1]))
    budget = experiment.budget
    quota = memory.quota(seen, size=budget.size, fixed_per_class=budget.fixed_per_class)
    return [min(quota, count) for count in _counts(experiment)[:seen]] if quota else []


def _counts(experiment: Experiment) -> list[int]:
    """Returns the number of training images of each of the run's classes, in order of arrival.

    Images that are kept for validation don't count.
    """
    rows = torch.cat([phase.train_rows for phase in experiment.scenario.phases])
    return torch.bincount(experiment.scenario.train_labels[rows], minlength=experiment.num_classes).tolist()
