"""Decides which keys of a configuration have an effect, and warns about those that a person set and that have none.

A method, a schedule and a data set ignore the keys that they don't use, so that a preset can be run with each of them.
`TABLE` has every key of the schema: a new one has to be entered here. What a user's own method or backbone uses isn't
known, so every key counts as used by it.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any, NamedTuple, get_args

from cil_func.config import messages, names, of_methods
from cil_func.config.combinations import OF_FILES
from cil_func.config.messages import shown
from cil_func.config.schema import Config, Method, PartOfOptim, PhaseOptim
from cil_func.config.stages import is_stage

METHODS: tuple[str, ...] = get_args(get_args(Method.model_fields["name"].annotation)[0])  # the built-in ones
WITH_MEMORY, WITH_KD = of_methods.using("memory"), of_methods.using("distillation")
WITH_TEMPERATURE, WITH_ALIGN = of_methods.using("temperature"), of_methods.using("align")
STAGES = {name: uses.stages for name, uses in of_methods.TABLE.items() if uses.stages}


class Use(NamedTuple):
    """When a key is used.

    when(config, processes): whether it is used in this configuration by so many processes (0: not known).
    deciding(config): the keys whose values decide that, for the warning, or words such as "one process" in their place.
    """

    when: Callable[[Config, int], bool] = lambda config, processes: True
    deciding: Callable[[Config], tuple[str, ...]] = lambda config: ()


def without_effect(config: Config, keys: Iterable[str], *, processes: int = 0) -> str:
    """Returns one line about those of the dotted keys that have no effect in this configuration, or "" if all have one.

    keys: those that a person set; a table stands for the keys that are set in it. processes: how many share the run, 0
    if that is not known.
    """
    found: dict[str, list[str]] = {}
    for key in dict.fromkeys(leaf for given in keys for leaf in _leaves(config, given)):
        use = use_of(key)
        if not use.when(config, processes):
            reason = " and ".join(_in_words(config, deciding) for deciding in use.deciding(config))
            found.setdefault(reason, []).append(key)
    return "; ".join(
        f"{' and '.join(named)} {'has' if len(named) == 1 else 'have'} no effect with {reason}"
        for reason, named in found.items()
    )


def unused_stages(config: Config, used: Collection[str]) -> str:
    """Returns one line about the tables [optim.STAGE] that belong to no stage of the method, or "".

    used: the names of the method's stages.
    """
    unused = [name for name in config.optim.stages if name not in used]
    if not unused:
        return ""
    tables = " and ".join(f"[optim.{name}]" for name in unused)
    close = messages.nearest(unused[0], used)
    stages = f"its stages: {', '.join(used)}" if used else "it has no stages"
    hint = f"did you mean [optim.{close}]?" if close else stages
    return f"{tables} {'has' if len(unused) == 1 else 'have'} no effect with {_in_words(config, 'method.name')}; {hint}"


def use_of(key: str) -> Use:
    """Returns the `Use` of a dotted key.

    An option is used when its table is, and a key of [optim.STAGE] by the methods that have the stage.
    Raises KeyError for a key that the schema lacks, and for a table.
    """
    parts = key.split(".")
    if is_stage(parts):
        return _of_stage(parts[1])
    starts = [".".join(parts[:at]) for at in range(len(parts), 1, -1)]
    return TABLE[next((start for start in starts if start in TABLE), key)]


def _leaves(config: Config, key: str) -> list[str]:
    """Returns [key], or, if the key names a part of [optim], the keys that are set in that table."""
    table = _value(config, key)
    if not isinstance(table, PartOfOptim):
        return [key]
    return [f"{key}.{name}" for name in PartOfOptim.model_fields if getattr(table, name) is not None]


def _value(config: Config, key: str) -> Any:
    """Returns the value that a configuration has for a dotted key; for an option, its whole table."""
    value: Any = config
    for part in key.split("."):
        if part == "options":
            return value.options
        value = getattr(value, part)
    return value


def _in_words(config: Config, deciding: str) -> str:
    return f"{deciding} = {shown(_value(config, deciding))}" if deciding in TABLE else deciding


def _by(*keys: str) -> Callable[[Config], tuple[str, ...]]:
    return lambda config: keys


def _is_one_of(config: Config, methods: Collection[str]) -> bool:
    """Returns whether the method is one of `methods`, or the user's own, which may be like them."""
    return config.method.name in methods or names.is_own(config.method.name)


def _used_by(methods: Collection[str]) -> Use:
    return Use(lambda config, processes: _is_one_of(config, methods), _by("method.name"))


def _of_stage(name: str) -> Use:
    return _used_by([method for method, stages in STAGES.items() if name in stages])


def _selects(config: Config, processes: int) -> bool:
    return _is_one_of(config, WITH_MEMORY) and bool(config.memory.size or config.memory.fixed_per_class)


def _distils(config: Config, processes: int) -> bool:
    return _is_one_of(config, WITH_KD) and config.method.kd_weight != 0


def _softens(config: Config, processes: int) -> bool:
    return config.method.name in WITH_TEMPERATURE or _distils(config, processes)


def _method_or(*keys: str, methods: Collection[str]) -> Callable[[Config], tuple[str, ...]]:
    """Returns a `Use.deciding`: `keys` if the method is one of `methods`, else method.name."""
    return lambda config: keys if _is_one_of(config, methods) else ("method.name",)


def _phase_key(phase: int, name: str) -> Callable[[Config], str]:
    """Returns config -> the dotted key that gives phase 0 or 1 its value of [optim]'s key `name`.

    For phase 0 it is that of [optim.first_phase] if it is set.
    """

    def key(config: Config) -> str:
        own = phase == 0 and getattr(config.optim.first_phase, name) is not None
        return f"optim.first_phase.{name}" if own else f"optim.{name}"

    return key


_DECIDING = {  # keys of [optim] that another one decides about
    "eval_every_epochs": "epochs", "milestones": "schedule", "milestone_factor": "schedule", "momentum": "name",
}  # fmt: skip


def is_read(name: str, phase: int, config: Config) -> bool:
    """Returns whether phase 0 or 1 uses its value of [optim]'s key `name`."""
    optim = config.optim_of_phase(phase)
    if name in ("milestones", "milestone_factor"):
        return optim.schedule == "milestones"
    if name == "momentum":
        return optim.name != "adamw"
    if name == "eval_every_epochs":
        return optim.eval_every_epochs == 0 or optim.eval_every_epochs < optim.epochs
    return True


def _optim_uses(name: str) -> dict[str, Use]:
    """Returns TABLE's two entries for the key `name` of [optim]: its own, and that of [optim.first_phase]."""
    deciding = _DECIDING.get(name, "schedule")
    first, later = _phase_key(0, deciding), _phase_key(1, deciding)

    def used(config: Config, processes: int) -> bool:
        inherited = getattr(config.optim.first_phase, name) is None
        by_a_stage = any(getattr(stage, deciding) is not None for stage in config.optim.stages.values())
        return is_read(name, 1, config) or (inherited and is_read(name, 0, config)) or by_a_stage

    return {
        f"optim.{name}": Use(used, lambda config: (later(config),)),
        f"optim.first_phase.{name}": Use(
            lambda config, processes: is_read(name, 0, config), lambda config: (first(config),)
        ),
    }


_ALWAYS = Use()
_TIMM = Use(
    lambda config, processes: config.model.backbone.startswith("timm:") or names.is_own(config.model.backbone),
    _by("model.backbone"),
)
_FILES = Use(lambda config, processes: config.data.name in OF_FILES, _by("data.name"))
_KD = Use(_distils, _method_or("method.kd_weight", methods=WITH_KD))
_EXEMPLARS = Use(_selects, _method_or("memory.size", "memory.fixed_per_class", methods=WITH_MEMORY))

TABLE: dict[str, Use] = {
    "run.seed": _ALWAYS,
    "run.device": _ALWAYS,
    "run.precision": _ALWAYS,
    "run.compile": _ALWAYS,
    "run.recompute": Use(lambda config, processes: "backbone" not in config.model.freeze, _by("model.freeze")),
    "run.threads": _ALWAYS,
    "run.timeout_seconds": Use(lambda config, processes: processes != 1, _by("one process")),
    "run.extends": _ALWAYS,
    "run.loggers": _ALWAYS,
    "data.name": _ALWAYS,
    "data.options": _ALWAYS,  # refused for the built-in data sets, see combinations.py
    "data.path": _ALWAYS,  # refused for digits
    **dict.fromkeys(("data.on_error", "data.exif_orientation", "data.background"), _FILES),
    "data.image_size": _ALWAYS,
    "data.subset": _FILES,
    "data.storage": _ALWAYS,
    "data.packed": Use(lambda config, processes: config.data.storage == "packed", _by("data.storage")),
    "data.workers": Use(
        lambda config, processes: config.data.name in OF_FILES and config.data.storage != "resident",
        lambda config: ("data.storage" if config.data.name in OF_FILES else "data.name",),
    ),
    "data.initial_increment": _ALWAYS,
    "data.increment": _ALWAYS,
    "data.class_order": _ALWAYS,
    "data.order_seed": Use(lambda config, processes: config.data.class_order == "shuffled", _by("data.class_order")),
    "data.tests_on": _ALWAYS,  # refused without data.validation
    **dict.fromkeys(("data.mean", "data.std", "data.phases", "data.validation"), _ALWAYS),
    "augment.auto_augment": _ALWAYS,
    "augment.backend": Use(lambda config, processes: config.augment.auto_augment != "", _by("augment.auto_augment")),
    **dict.fromkeys(("augment.window", "augment.crop_padding", "augment.flip", "augment.brightness"), _ALWAYS),
    **dict.fromkeys(("augment.contrast", "augment.saturation", "augment.erasing"), _ALWAYS),
    "model.backbone": _ALWAYS,
    "model.options": _ALWAYS,  # refused for the resnets
    "model.weights": _ALWAYS,
    "model.freeze": _ALWAYS,
    "model.drop_rate": _TIMM,
    "model.drop_path_rate": _TIMM,
    "memory.size": Use(
        lambda config, processes: _is_one_of(config, WITH_MEMORY) and not config.memory.fixed_per_class,
        _method_or("memory.fixed_per_class", methods=WITH_MEMORY),
    ),
    "memory.fixed_per_class": _used_by(WITH_MEMORY),
    "memory.selection": _EXEMPLARS,
    "memory.mirror_means": _EXEMPLARS,
    "memory.keep": _EXEMPLARS,
    "method.name": _ALWAYS,
    "method.options": _ALWAYS,  # what the method's function doesn't take is refused
    "method.temperature": Use(_softens, _KD.deciding),
    "method.kd_combination": _KD,
    "method.kd_weight": _used_by(WITH_KD),
    "method.clip_weights": _used_by(["wa"]),
    "method.align": _used_by(WITH_ALIGN),
    "method.label_smoothing": _used_by(of_methods.using("smoothing")),
    "method.lwf_classes": _used_by(["lwf", "lwm"]),
    **{key: use for name in PhaseOptim.model_fields for key, use in _optim_uses(name).items()},
    "checkpoint.every_seconds": _ALWAYS,
}
