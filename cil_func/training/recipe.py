"""How a stage is trained: its step, compiled or not, and its numbers from [optim]."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal, Protocol

import torch

from cil_func import optim
from cil_func.data import batches
from cil_func.data.replays import Share
from cil_func.errors import ConfigError
from cil_func.methods.base import Stage
from cil_func.networks.network import Network
from cil_func.parallel import batch_split
from cil_func.parallel.processes import Processes
from cil_func.training import runners, step
from cil_func.training.preprocess import Preprocess


class Numbers(Protocol):
    """The keys of [optim] that a recipe uses, as a stage of a phase has them; `config.schema` explains them."""

    epochs: int
    batch_size: int
    accumulate: int
    norm_batch: int
    learning_rate: float
    schedule: Literal["cosine", "milestones", "constant"]
    milestones: tuple[int, ...]
    milestone_factor: float
    warmup_epochs: int
    eval_every_epochs: int


@dataclass(frozen=True)
class Recipe:
    """How a stage of a phase is trained.

    step: see `training.step.join`. rate: the learning rate of an epoch.
    batch_size: how many images a batch has on all processes together.
    norm_batch: how many of them share batch norm's statistics; 0: all; 1: there is no batch norm.
    own: this process's places in a batch; None: all.
    padded_to: how many rows this process's part of a batch is filled up to, so that each batch has one shape; 0: it
    isn't.
    joins: whether a last batch of a single image, which can't be filled up, is joined to the one before it.
    eval_every_epochs: how many epochs lie between two evaluations; 0: only at the end of a phase.
    dtype: of parameters and learning rate.
    share: this process's part of the exemplars that come beside each batch, for stages with `Stage.replay`.
    """

    stage: Stage
    optimiser: optim.Optimiser
    rate: optim.Schedule
    step: step.Step
    epochs: int
    batch_size: int
    norm_batch: int
    own: slice | None
    padded_to: int
    joins: bool
    eval_every_epochs: int
    dtype: torch.dtype
    share: Share = Share(0)  # noqa: RUF009 (a tuple)

    def batches(self, count: int) -> list[range]:
        """Returns the places, 0 to count - 1, of each batch of an epoch over `count` images, of all processes."""
        return batches.cut(count, self.batch_size, joins=self.joins)


@dataclass(frozen=True)
class RecipeMaker:
    """Makes the recipes of a run. Recipes whose batches have one shape share a step, which takes a minute to compile.

    dtype: of the convolutions. processes: those that share a batch. compiled: whether the step is compiled. draws:
    whether the backbone draws random numbers in train mode.
    """

    network: Network
    preprocess: Preprocess
    dtype: torch.dtype
    processes: Processes
    compiled: bool = False
    draws: bool = False
    _step: Callable[..., step.Step] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_step", cache(self._new_step))

    @property
    def _alone(self) -> bool:
        """Whether images share no statistics, as without batch norm, so that each is a norm group of its own."""
        net = self.network.backbone
        return not (net.groups or net.shares()) and net.pads()

    @property
    def _padded(self) -> bool:
        """Whether a last, smaller batch is filled up.

        It isn't where the backbone can't take padding, or where one process runs steps that aren't compiled. Run
        eagerly it would take as long as two batches on a CPU, and as long as the rest of a captured epoch on a GPU. Of
        several processes one may hold no image.
        """
        return self.network.backbone.pads() and (self.compiled or self.processes.size > 1)

    def make(
        self,
        stage: Stage,
        numbers: Numbers,
        optimiser: optim.Optimiser,
        *,
        kind: Hashable = "sgd",
        table: str = "optim",
    ) -> Recipe:
        """Returns the recipe of a stage.

        numbers: the hyperparameters. kind: equal for optimisers that differ in nothing but the numbers in their states;
        their recipes can share a step. table: where a person has set the numbers, for messages: "optim",
        "optim.first_phase" or "optim.NAME". Raises ConfigError for norm groups that the backbone can't have, and for
        what several processes can't share.
        """
        sizes = self._sizes(numbers)
        pads, name = self.network.backbone.pads(), self.network.name
        alone = self._alone and numbers.norm_batch not in (0, numbers.batch_size)
        whole = numbers.norm_batch and self.processes.size == 1 and not (pads or self.network.backbone.shares())
        if name.startswith("timm:") and (alone or whole):
            why = "whose images share no statistics" if alone else "which takes its batch norm over the whole batch"
            raise ConfigError(f"{table}.norm_batch: {numbers.norm_batch} with model.backbone = {name}, {why}; 0 fits")
        batch_split.refuse_single_group(self.processes.size, **sizes, pads=pads, table=table)
        batch_split.refuse_cut_views(stage.views, self.processes.size, **sizes, table=table)
        if self.draws and self.processes.size > 1:
            raise ConfigError(
                f"model.backbone: {self.network.name} draws random numbers for each image, and {self.processes.size} "
                "processes would draw others than one; use one process, or model.drop_rate = 0 and "
                "model.drop_path_rate = 0"
            )
        return Recipe(
            stage=stage,
            optimiser=optimiser,
            rate=_schedule(numbers),
            step=self._step(
                _Same(stage, stage.name), _Same(optimiser, kind), numbers.batch_size, numbers.norm_batch,
                numbers.accumulate,
            ),
            epochs=numbers.epochs,
            **sizes,
            own=_own(self.processes, **sizes),
            padded_to=batch_split.rows_per_process(self.processes.size, **sizes) if self._padded else 0,
            joins=not pads or (self.network.backbone.shares() and not self._padded),
            eval_every_epochs=numbers.eval_every_epochs,
            dtype=self.preprocess.mean.dtype,
            share=_share(self.processes, stage.replay.images, **sizes, pads=pads) if stage.replay else Share(0),
        )

    def _sizes(self, numbers: Numbers) -> dict[str, int]:
        return {"batch_size": numbers.batch_size, "norm_batch": 1 if self._alone else numbers.norm_batch}

    def _new_step(
        self, stage: "_Same", optimiser: "_Same", batch_size: int, norm_batch: int, accumulate: int
    ) -> step.Step:
        """Returns the step for batches of one shape, see `Recipe.step`. stage, optimiser: with what identifies them."""
        parts = step.make(
            stage.value, self.network, optimiser.value, self.preprocess, dtype=self.dtype, norm_batch=norm_batch,
            padded=self._padded,
        )  # fmt: skip
        if not self.compiled:
            return step.join(parts, self.processes.reduce, accumulate=accumulate)
        groups = 1 if self._alone else norm_batch
        rows = batch_split.rows_per_process(self.processes.size, batch_size=batch_size, norm_batch=groups)
        return _compiled(parts, self.processes, 0 if self._padded else rows, accumulate)


@dataclass(frozen=True, eq=False)
class _Same:
    """A value as a key of a cache: two are equal if their `key` is, whatever their `value`."""

    value: Any
    key: Hashable

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def fitted(recipe: Recipe, count: int, processes: Processes, *, beside: int = 0) -> Recipe:
    """Returns the recipe for a stage of `count` images: a smaller batch where most of a whole one would be padding.

    A recipe that fills no batch up comes back as it is. processes: those that share a batch. beside: how many exemplars
    the largest pool of the stage has; their groups are made smaller as a batch is.
    """
    if recipe.share.filled and beside:
        size = batch_split.fit_batch_size(beside, batch_size=recipe.share.size, norm_batch=recipe.norm_batch)
        recipe = replace(recipe, share=_share(processes, size, batch_size=0, norm_batch=recipe.norm_batch))
    if not recipe.padded_to:
        return recipe
    views, norm_batch = recipe.stage.views, recipe.norm_batch
    batch_size = batch_split.fit_batch_size(count, batch_size=recipe.batch_size, norm_batch=norm_batch, views=views)
    sizes = {"batch_size": batch_size, "norm_batch": recipe.norm_batch}
    return replace(
        recipe,
        batch_size=batch_size,
        own=_own(processes, **sizes),
        padded_to=batch_split.rows_per_process(processes.size, **sizes),
    )


def _share(processes: Processes, images: int, *, batch_size: int, norm_batch: int, pads: bool = True) -> Share:
    sizes = {"batch_size": images or batch_size, "norm_batch": norm_batch}
    filled = batch_split.rows_per_process(processes.size, **sizes) if pads else 0
    return Share(sizes["batch_size"], _own(processes, **sizes), filled)


def _own(processes: Processes, *, batch_size: int, norm_batch: int) -> slice | None:
    if processes.size == 1:
        return None
    return batch_split.slice_of_rank(processes.rank, processes.size, batch_size=batch_size, norm_batch=norm_batch)


def _compiled(parts: step.StepParts, processes: Processes, only: int, accumulate: int) -> step.Step:
    """Returns the whole step, compiled: one graph, or two with a collective or a sum between them.

    only: how many rows a batch has if it is compiled, others run eagerly; 0: each is compiled, since all are filled up.
    accumulate: see `step.join`; above 1 the parts of each batch are compiled.
    """

    def full(*args) -> int:
        rows = len(args[2].labels)
        return rows if only in (0, rows) or accumulate > 1 else 0

    if processes.size == 1 and accumulate == 1 and parts.replayed is None:
        return runners.compiled(step.join(parts), full=full, name="training step")
    gradient = runners.compiled(parts.gradient, full=full, name="training step")
    update = runners.compiled(parts.update, full=lambda *args: 1, name="weights' update")
    replayed = parts.replayed
    if replayed:
        replayed = runners.compiled(replayed, full=lambda *args: len(args[1].labels), name="step on exemplars")
    compiled = parts._replace(gradient=gradient, update=update, replayed=replayed)
    return step.join(compiled, processes.reduce, accumulate=accumulate)


def _schedule(numbers: Numbers) -> optim.Schedule:
    rate, warmup = numbers.learning_rate, numbers.warmup_epochs
    if numbers.schedule == "cosine":
        return optim.cosine(rate, epochs=numbers.epochs, warmup_epochs=warmup)
    if numbers.schedule == "constant":
        return optim.constant(rate, warmup_epochs=warmup)
    return optim.milestones(rate, at=numbers.milestones, factor=numbers.milestone_factor, warmup_epochs=warmup)
