"""What a method is: the record of functions in which two methods differ."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch


class Outputs(NamedTuple):
    """What a model says of a batch: logits (B, C) of the full-width classifier, features (B, D)."""

    logits: torch.Tensor
    features: torch.Tensor


class Targets(NamedTuple):
    """labels: (B,) integers; rows: (B,) bool, False for padding, or None: all are images."""

    labels: torch.Tensor
    rows: torch.Tensor | None = None


class Classes(NamedTuple):
    """Which of the C classes of the whole run are known: `seen` and `old`, (C,) bool, old within seen.

    Shapes stay the same while classes grow, so one compiled step serves all phases.
    """

    seen: torch.Tensor
    old: torch.Tensor


@dataclass(frozen=True)
class Options:
    """The numbers and choices of the [method] table. Which published recipe uses which: README."""

    temperature: float = 2.0
    kd_combination: Literal["convex", "sum"] = "convex"
    kd_weight: float | Literal["dynamic"] = "dynamic"
    clip_weights: bool = False
    align: bool = True
    label_smoothing: float = 0.0
    lwf_classes: Literal["new", "seen"] = "new"


def _unchanged(params: dict) -> dict:
    return params


def _no_fault(sizes: Sequence[int]) -> str:
    return ""


def _no_finish(params: dict, num_new: int) -> tuple[dict, None]:
    return params, None


@dataclass(frozen=True)
class Method:
    """loss(student, teacher, targets, classes) -> scalar; `teacher` is None without `uses_teacher`.

    In phase 0 nobody has taught yet: what a teacher says then must not count, which `classes.old` shows.
    finish(params, num_new) -> (params, gamma or None): after the training of a phase that has old classes.
    project(params) -> params: after each update, back into the set of allowed weights.
    trainable(path) -> bool: which parameters are differentiated, by their path in the tree.
    predict: by "logits" or by "nme", the nearest class mean.
    rows: what a phase trains on: its "new" images and the exemplars, or "all" images of all classes seen.
    restart: whether a phase starts from a fresh initialisation.
    fault_of(sizes) -> why phases of these sizes (numbers of new classes) can't be learned and the way out; or "".
    """

    name: str
    loss: Callable[[Outputs, Outputs | None, Targets, Classes], torch.Tensor]
    finish: Callable[[dict, int], tuple[dict, torch.Tensor | None]] = _no_finish
    project: Callable[[dict], dict] = _unchanged
    trainable: Callable[[str], bool] = lambda path: True
    predict: Literal["logits", "nme"] = "logits"
    rows: Literal["new", "all"] = "new"
    restart: bool = False
    fault_of: Callable[[Sequence[int]], str] = _no_fault
    uses_memory: bool = False
    uses_teacher: bool = False
