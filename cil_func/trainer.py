"""How a phase is trained: the step, compiled, and the numbers of [optim]."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from cil_func import methods, model, optim
from cil_func.config import Config, Optim
from cil_func.engine import compile, shares, step
from cil_func.engine.distributed import World


@dataclass(frozen=True)
class Trainer:
    """rate: epoch -> learning rate; step: see `engine.step.make`."""

    optimiser: optim.Optimiser
    rate: Callable[[int], float]
    step: Callable
    epochs: int
    batch_size: int  # images, of all processes
    own: slice  # this process's places in a batch
    padded_to: int  # rows that its part of a batch is filled up to, to be the same graph; 0: it is not
    eval_every_epochs: int


def make(
    config: Config,
    method: methods.Method,
    preprocess: step.Preprocess,
    dtype: torch.dtype,
    world: World,
) -> tuple[Trainer, Trainer]:
    """One trainer where both settings are equal: a step made twice would be compiled twice."""
    first, later = config.optim_of_phase(0), config.optim_of_phase(1)
    pads = model.backbone(config.model.backbone).pads
    for table, settings in (("optim", later), ("optim.first_phase", first)):
        shares.refuse_one_group(
            world.size, batch_size=settings.batch_size, norm_batch=settings.norm_batch, pads=pads, table=table
        )
    # An epoch's last batch, filled up, is the same graph: eagerly it would take as long as two on a CPU, and as
    # long as the rest of a captured epoch on a GPU. Of several processes one may hold no image.
    padded = pads and (config.run.compile or world.size > 1)
    of_phase = partial(
        _make,
        method=method,
        preprocess=preprocess,
        dtype=dtype,
        compiled=config.run.compile,
        padded=padded,
        world=world,
    )
    trainer = of_phase(later)
    return (trainer if first == later else of_phase(first)), trainer


def _make(
    settings: Optim,
    *,
    method: methods.Method,
    preprocess: step.Preprocess,
    dtype: torch.dtype,
    compiled: bool,
    padded: bool,
    world: World,
) -> Trainer:
    optimiser = optim.sgd(momentum=settings.momentum, weight_decay=settings.weight_decay)
    halves = step.make(
        method, optimiser, preprocess, dtype=dtype, norm_batch=settings.norm_batch, padded=padded
    )
    sizes = {"batch_size": settings.batch_size, "norm_batch": settings.norm_batch}
    rows = shares.rows_of(world.size, **sizes)
    return Trainer(
        optimiser=optimiser,
        rate=_schedule(settings),
        step=_whole_step(halves, world, rows) if compiled else step.join(halves, world.reduce),
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        own=shares.share(world.rank, world.size, **sizes),
        padded_to=rows if padded else 0,
        eval_every_epochs=settings.eval_every_epochs,
    )


def _whole_step(halves: step.Halves, world: World, rows: int) -> Callable:
    """The step, compiled: one graph, or two with the collective between them."""

    def full(*args) -> bool:
        return len(args[2].labels) == rows

    if world.size == 1:
        return compile.compiled(step.join(halves), full=full)
    update = compile.compiled(halves.update, full=lambda *args: True)
    return step.join(step.Halves(compile.compiled(halves.gradient, full=full), update), world.reduce)


def _schedule(settings: Optim) -> Callable[[int], float]:
    if settings.schedule == "cosine":
        return optim.cosine(
            settings.learning_rate, epochs=settings.epochs, warmup_epochs=settings.warmup_epochs
        )
    return optim.milestones(
        settings.learning_rate,
        at=settings.milestones,
        factor=settings.milestone_factor,
        warmup_epochs=settings.warmup_epochs,
    )
