"""Finds values that are allowed one by one, but not together."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cil_func.config import names
from cil_func.config.messages import shown

if TYPE_CHECKING:
    from cil_func.config.schema import Config, Method, PhaseOptim

OF_FILES = ("image_folder", "imagenet100", "imagenet1000", "cub200", "core50")  # read from image files
LISTED = ("cub200", "core50")  # of these, those that may be as they are distributed, with lists of their images
_REPLAYS = "which learns from exemplars beside each batch"
_PREDICTS = "which predicts by exemplars"
_USE_OF_EXEMPLARS = {
    "icarl": _PREDICTS, "icarl-bce": _PREDICTS, "derpp": _REPLAYS, "agem": _REPLAYS, "gem": _REPLAYS,
}  # fmt: skip


def of_config(config: "Config") -> Iterator[str]:
    """Yields one message for each combination of values in a configuration that is not allowed; none if all fit."""
    data, memory = config.data, config.memory
    if config.run.recompute and config.run.compile:
        yield "run.recompute: true with run.compile = true, which keeps all in one graph; run.compile = false, or false"
    if data.name in OF_FILES and not data.path:
        allowed = "the path of a folder that holds train/ and test/ (or val/)"
        yield f"data.path: missing, with data.name = {shown(data.name)}; {allowed}"
    if data.name == "digits" and data.path:
        allowed = 'data.name = "image_folder" to train on that folder, or no path'
        yield f'data.path: {shown(data.path)} with data.name = "digits", which is in no folder; {allowed}'
    if data.storage in ("streaming", "packed") and data.name not in OF_FILES:
        given = f'data.storage: "{data.storage}" with data.name = {shown(data.name)}, which is in memory'
        yield f'{given}; "resident" or "auto", or a data set of image files: {", ".join(OF_FILES)}'
    if data.subset and data.name in LISTED:
        given = f"data.subset: {shown(data.subset)} with data.name = {shown(data.name)}, which has a list of its own"
        yield f'{given}; "", or data.name = "image_folder" with train/ and test/'
    if bool(data.mean) != bool(data.std):
        lacking, given = ("std", "mean") if data.mean else ("mean", "std")
        yield f"data.{lacking}: [] with data.{given} = {shown(getattr(data, given))}; give both or neither"
    if data.tests_on == "validation" and not data.validation:
        yield 'data.tests_on: "validation" with data.validation = 0; a share of the training images, such as 0.1'
    for key in ("phases", "validation") if config.run.extends else ():
        if getattr(data, key):
            yield f"data.{key}: {getattr(data, key)} with run.extends, whose old classes have exemplars alone; 0"
    if data.options and not names.is_own(data.name):
        yield _no_options("data", next(iter(data.options)), "data.name", data.name)
    if config.model.options and config.model.backbone.startswith("resnet"):
        yield _no_options("model", next(iter(config.model.options)), "model.backbone", config.model.backbone)
    yield from _of_distillation(config.method)
    name = config.method.name
    if name in _USE_OF_EXEMPLARS and not (memory.size or memory.fixed_per_class):
        given = f"memory.size: 0 with method.name = {shown(name)}, {_USE_OF_EXEMPLARS[name]}"
        yield f"{given}; an integer >= 1, or memory.fixed_per_class >= 1"
    mistakes = list(of_optim(config.optim, "optim"))
    yield from mistakes or of_optim(config.optim_of_phase(0), "optim.first_phase")


def of_optim(optim: "PhaseOptim", table: str) -> Iterator[str]:
    """Yields one message for each combination of values that is not allowed in the [optim] of one stage or phase.

    optim: the values, merged from all tables that they come from. table: the table that messages name, where a person
    repairs it, like "optim.first_phase".
    """
    epochs, norm_batch = optim.epochs, optim.norm_batch
    if optim.schedule == "milestones" and not (optim.milestones and optim.milestones[-1] < epochs):
        given = f'{shown(optim.milestones)} with schedule = "milestones" and epochs = {shown(epochs)}'
        yield f"{table}.milestones: {given}; one or more increasing epochs, all < epochs"
    if optim.warmup_epochs >= epochs:
        given = f"{shown(optim.warmup_epochs)} with epochs = {shown(epochs)}"
        yield f"{table}.warmup_epochs: {given}; an integer below epochs"
    given = f"{table}.norm_batch: {shown(norm_batch)} with batch_size = {shown(optim.batch_size)}"
    if norm_batch > optim.batch_size:
        yield f"{given}; 0 (the whole batch), or an integer in 2..batch_size"
    elif norm_batch and optim.accumulate > 1 and optim.batch_size % norm_batch:
        given = f"{shown(optim.batch_size)} with norm_batch = {shown(norm_batch)}"
        yield f"{table}.batch_size: {given} and accumulate = {shown(optim.accumulate)}; a multiple of norm_batch"


def _no_options(table: str, option: str, key: str, name: str) -> str:
    return f"{table}.options.{option}: unknown option; {key} = {shown(name)} takes none"


def _of_distillation(method: "Method") -> Iterator[str]:
    """Yields messages about a weight of distillation that means nothing with its combination.

    In (1 - w) CE + w KD, "convex", a weight above 1 makes the cross-entropy's share negative. In CE + w KD, "sum", the
    weight "dynamic" is no share.
    """
    combination, weight = method.kd_combination, method.kd_weight
    given = f"method.kd_weight: {shown(weight)} with kd_combination = {shown(combination)}"
    if combination == "sum" and weight == "dynamic":
        yield f'{given}; a number >= 0, or kd_combination = "convex"'
    if combination == "convex" and weight != "dynamic" and weight > 1:
        yield f'{given}; a number in 0..1, or "dynamic", or kd_combination = "sum"'
