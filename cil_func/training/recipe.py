"""How a phase is trained: the step, compiled, and the numbers of [optim]."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import torch

from cil_func import methods, model, optim
from cil_func.config.schema import Config, Optim
from cil_func.data import batches
from cil_func.errors import ConfigError
from cil_func.networks.timm_skeleton import Drop
from cil_func.parallel import batch_split
from cil_func.parallel.processes import Processes
from cil_func.training import runners, step


@dataclass(frozen=True)
class Trainer:
    """rate: epoch -> learning rate; step: see `training.step.make`."""

    optimiser: optim.Optimiser
    rate: Callable[[int], float]
    step: Callable
    epochs: int
    batch_size: int  # images, of all processes
    norm_batch: int  # images that share batch norm's statistics; 0: all; 1: there is none
    own: slice | None  # this process's places in a batch; None: all
    padded_to: int  # rows that its part of a batch is filled up to, to be the same graph; 0: it is not
    joins: bool  # whether a last batch of a single image is joined to the one before it: it can't be filled up
    eval_every_epochs: int

    def batches(self, count: int) -> list[range]:
        """The places of each batch of an epoch over `count` images, of all processes."""
        return batches.cut(count, self.batch_size, joins=self.joins)


def make(
    config: Config,
    method: methods.Method,
    preprocess: step.Preprocess,
    dtype: torch.dtype,
    processes: Processes,
    *,
    draws: bool = False,
) -> tuple[Trainer, Trainer]:
    """The trainers of the first phase and of the later ones.

    draws: whether the backbone draws random numbers, see `model.Backbone`. Raises ConfigError for what several
    processes can't share.

    They share one step where their batches have one shape, whatever else of [optim] differs: rate, momentum and decay
    are inputs of the step, and a second step would be compiled for a minute.
    """
    first, later = config.optim_of_phase(0), config.optim_of_phase(1)
    net = model.backbone(config.model.backbone)
    pads, alone = net.pads(), not net.groups and net.pads()
    for table, settings in (("optim", later), ("optim.first_phase", first)):
        batch_split.refuse_single_group(
            processes.size, **_sizes(settings, alone=alone), pads=pads, table=table
        )
    if draws and processes.size > 1:
        raise ConfigError(
            f"model.backbone: {config.model.backbone} draws random numbers for each image, and {processes.size} "
            "processes would draw others than one; use one process, or model.drop_rate = 0 and model.drop_path_rate = 0"
        )
    # An epoch's last batch, filled up, is the same graph: eagerly it would take as long as two on a CPU, and as
    # long as the rest of a captured epoch on a GPU. Of several processes one may hold no image.
    padded = pads and (config.run.compile or processes.size > 1)
    make_step = cache(
        partial(
            _make_step, method, preprocess, dtype, compiled=config.run.compile, padded=padded, processes=processes,
            alone=alone, drop=drop_of(config),
        )
    )  # fmt: skip
    first, later = (
        _make(settings, make_step, padded=padded, joins=not pads, alone=alone, processes=processes)
        for settings in (first, later)
    )
    return first, later


def fitted(trainer: Trainer, count: int, processes: Processes) -> Trainer:
    """The trainer of a phase of `count` rows: with a smaller batch where most of a whole one would be padding.

    A trainer that fills no batch up comes back as it is. processes: the processes that share a batch.
    """
    if not trainer.padded_to:
        return trainer
    batch_size = batch_split.fit_batch_size(count, batch_size=trainer.batch_size, norm_batch=trainer.norm_batch)
    sizes = {"batch_size": batch_size, "norm_batch": trainer.norm_batch}
    return replace(
        trainer,
        batch_size=batch_size,
        own=_own(processes, **sizes),
        padded_to=batch_split.rows_per_process(processes.size, **sizes),
    )


def drop_of(config: Config) -> Drop:
    """The rates of [model]."""
    return Drop(config.model.drop_rate, config.model.drop_path_rate)


def _sizes(settings: Optim, *, alone: bool) -> dict[str, int]:
    """How a batch is shared. alone: whether images have no statistics in common, so that each is a group."""
    return {"batch_size": settings.batch_size, "norm_batch": 1 if alone else settings.norm_batch}


def _own(processes: Processes, *, batch_size: int, norm_batch: int) -> slice | None:
    if processes.size == 1:
        return None
    return batch_split.slice_of_rank(processes.rank, processes.size, batch_size=batch_size, norm_batch=norm_batch)


def _make(
    settings: Optim,
    make_step: Callable[[int, int], Callable],
    *,
    padded: bool,
    joins: bool,
    alone: bool,
    processes: Processes,
) -> Trainer:
    sizes = _sizes(settings, alone=alone)
    return Trainer(
        optimiser=optim.sgd(momentum=settings.momentum, weight_decay=settings.weight_decay),
        rate=_schedule(settings),
        step=make_step(settings.batch_size, settings.norm_batch),
        epochs=settings.epochs,
        **sizes,
        own=_own(processes, **sizes),
        padded_to=batch_split.rows_per_process(processes.size, **sizes) if padded else 0,
        joins=joins,
        eval_every_epochs=settings.eval_every_epochs,
    )


def _make_step(
    method: methods.Method,
    preprocess: step.Preprocess,
    dtype: torch.dtype,
    batch_size: int,
    norm_batch: int,
    *,
    compiled: bool,
    padded: bool,
    processes: Processes,
    alone: bool,
    drop: Drop,
) -> Callable:
    """The step for batches of one shape. An optimiser's numbers are in its state, so any one of sgd serves all."""
    parts = step.make(method, optim.sgd(), preprocess, dtype=dtype, norm_batch=norm_batch, padded=padded, drop=drop)
    if not compiled:
        return step.join(parts, processes.reduce)
    rows = batch_split.rows_per_process(processes.size, batch_size=batch_size, norm_batch=1 if alone else norm_batch)
    return _whole_step(parts, processes, 0 if padded else rows)


def _whole_step(parts: step.StepParts, processes: Processes, only: int) -> Callable:
    """The step, compiled: one graph, or two with the collective between them.

    only: the number of rows of a batch that is compiled; 0: each number is, since all batches are filled up.
    """

    def full(*args) -> int:
        rows = len(args[2].labels)
        return rows if only in (0, rows) else 0

    if processes.size == 1:
        return runners.compiled(step.join(parts), full=full, name="training step")
    gradient = runners.compiled(parts.gradient, full=full, name="training step")
    update = runners.compiled(parts.update, full=lambda *args: 1, name="weights' update")
    return step.join(step.StepParts(gradient, update), processes.reduce)


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
