"""Trains some steps of a phase with random weights, to see what they do and how long they take."""

from collections.abc import Callable, Sequence
from functools import partial

import torch

from cil_func import experiment, rng, tree
from cil_func.data.scenario import Phase
from cil_func.experiment import Experiment
from cil_func.memory import Memory
from cil_func.methods.extra import LOGITS
from cil_func.networks.network import Model
from cil_func.training.events import Emit
from cil_func.training.progress import Progress, SaveHook


class EnoughError(Exception):
    """Raised by `emit` or a hook when enough steps are done, to leave the training of the phase."""


def train(
    made: Experiment, phase: Phase, *, emit: Emit, hook: SaveHook[Progress], exemplars: Memory | None = None
) -> bool:
    """Trains a phase until emit or hook raises EnoughError. Returns whether one did, before the phase ended.

    The weights are random, not learned: no step's time depends on them. Between epochs nothing is evaluated.
    emit: takes the training's events. hook: is called at its borders. exemplars: of old classes; None: there are none.
    """
    num_old = sum(made.sizes(phase)[:-1])
    key = rng.fold_in(made.seed, "profile")
    learned = drawn(made, made.sizes(phase)[:-1]) if num_old else None
    kept, extra = exemplars or {}, {}
    if made.method.replay and made.method.replay.stores:
        zeros = partial(torch.zeros, dtype=made.dtype)
        extra = {LOGITS: {str(label): zeros(len(rows), num_old) for label, rows in kept.items()}}
    progress = Progress(phase=phase.index, learned=learned, exemplars=kept, extra=extra)
    student = partial(experiment.expand, made, phase, progress.learned, key, progress.exemplars)
    teach = partial(experiment.teacher, made, phase, progress.learned)
    nothing: Callable[..., dict] = lambda *_, **__: {"top1": None}  # noqa: E731
    try:
        experiment.train(made, phase, progress, student, teach, key, emit=emit, hook=hook, evaluate=nothing)
    except EnoughError:
        return True
    return False


def drawn(made: Experiment, sizes: Sequence[int]) -> Model:
    """Returns a model with random weights, as if it were learned in phases that bring so many classes each."""
    return Model(*tree.cast(tuple(made.network.drawn(0, sizes)), dtype=made.dtype, device=made.device))
