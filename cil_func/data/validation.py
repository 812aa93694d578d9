"""Keeps a share of each class's training images for validation, and cuts a scenario to its first phases."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from cil_func import rng
from cil_func.data.scenario import Scenario
from cil_func.errors import DataError

T = TypeVar("T")


def keep_out(scenario: Scenario, share: float, class_names: Sequence[str]) -> Scenario:
    """Returns the scenario with some rows of each phase moved from `train_rows` to `validation_rows`.

    share: of the training images of each class that move: round(share * count) of them, but at least one, and at least
    one stays. 0: none, and the scenario comes back as it is. class_names: by original class index, for messages.
    Which images move depends on the class and on the number of its images, not on the run's seed or the class order:
    all runs on the same images with the same share are judged on the same ones.
    Raises DataError for a class with a single training image.
    """
    if not share:
        return scenario
    phases = []
    for phase in scenario.phases:
        labels, kept = scenario.train_labels[phase.train_rows], torch.zeros(len(phase.train_rows), dtype=torch.bool)
        for index in phase.classes:
            own = torch.nonzero(labels == scenario.class_order.index(index)).flatten()
            if len(own) < 2:
                raise DataError(
                    f"data.validation: class {class_names[index]!r} has {len(own)} training image, of which none can "
                    "be kept out; add images, or set data.validation = 0"
                )
            kept[own[_drawn(index, len(own), share)]] = True
        phases.append(replace(phase, train_rows=phase.train_rows[~kept], validation_rows=phase.train_rows[kept]))
    return replace(scenario, phases=tuple(phases))


def _drawn(index: int, count: int, share: float) -> Tensor:
    """Returns which of the `count` images of class `index` are kept out: int64, positions among them."""
    number = min(count - 1, max(1, round(share * count)))
    return torch.randperm(count, generator=rng.generator(rng.fold_in(0, "validation", index)))[:number]


def as_tests(scenario: Scenario) -> Scenario:
    """Returns the scenario whose test images are the validation images, which are among the training images.

    Row numbers and labels of test images are those of training images then, and a phase's test_rows its
    validation_rows.
    """
    phases = [replace(phase, test_rows=phase.validation_rows) for phase in scenario.phases]
    return replace(scenario, phases=tuple(phases), test_labels=scenario.train_labels)


def first_of(phases: Sequence[T], count: int) -> Sequence[T]:
    """Returns the first `count` of what there is one of for each phase; 0: all. Raises DataError if there are fewer."""
    if count > len(phases):
        raise DataError(f"data.phases: {count}, and there are {len(phases)}; give at most that, or 0 for all")
    return phases[: count or len(phases)]


def first(scenario: Scenario, count: int) -> Scenario:
    """Returns the scenario cut after `count` phases, and after their classes; 0: as it is.

    Images of classes that never come stay in the labels, and are in no phase's rows. Raises what `first_of` raises.
    """
    if not count:
        return scenario
    phases = tuple(first_of(scenario.phases, count))
    classes = sum(len(phase.classes) for phase in phases)
    return replace(scenario, class_order=scenario.class_order[:classes], phases=phases)
