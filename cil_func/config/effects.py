"""Which keys of a configuration have an effect, and the warning about those that a person set and that have none.

A method, a schedule and a data set ignore the keys that they don't use, so that a preset can be run with each of them.
`TABLE` has every key of the schema: a new one has to be entered here.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from cil_func.config.messages import shown
from cil_func.config.schema import Config, PhaseOptim

WITH_MEMORY = ("wa", "icarl", "replay")  # methods that keep exemplars
WITH_TEACHER = ("wa", "icarl", "lwf")  # methods that distil
OF_FILES = ("image_folder", "imagenet100", "imagenet1000")  # data sets that are read from image files


class Use(NamedTuple):
    """When a key is used.

    when: takes the configuration and the number of processes (0: not known). deciding: takes the configuration and
    returns the keys whose values decide that, or words that can stand in their place.
    """

    when: Callable[[Config, int], bool] = lambda config, processes: True
    deciding: Callable[[Config], tuple[str, ...]] = lambda config: ()


def without_effect(config: Config, keys: Iterable[str], *, processes: int = 0) -> str:
    """Returns one line about those of the dotted keys that have no effect in this configuration, or "" if all have one.

    processes: how many share the run, 0 if that is not known.
    """
    found: dict[str, list[str]] = {}
    for key in dict.fromkeys(leaf for given in keys for leaf in _leaves(config, given)):
        use = TABLE[key]
        if not use.when(config, processes):
            reason = " and ".join(_in_words(config, deciding) for deciding in use.deciding(config))
            found.setdefault(reason, []).append(key)
    return "; ".join(
        f"{' and '.join(named)} {'has' if len(named) == 1 else 'have'} no effect with {reason}"
        for reason, named in found.items()
    )


def _leaves(config: Config, key: str) -> list[str]:
    """The key itself, or the keys that are set in a table."""
    return [key] if key in TABLE else [k for k in TABLE if k.startswith(f"{key}.") and _value(config, k) is not None]


def _value(config: Config, key: str) -> object:
    value: object = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _in_words(config: Config, deciding: str) -> str:
    return f"{deciding} = {shown(_value(config, deciding))}" if deciding in TABLE else deciding


def _by(*keys: str) -> Callable[[Config], tuple[str, ...]]:
    return lambda config: keys


def _has_memory(config: Config, processes: int) -> bool:
    return config.method.name in WITH_MEMORY


def _selects(config: Config, processes: int) -> bool:
    return config.method.name in WITH_MEMORY and bool(config.memory.size or config.memory.fixed_per_class)


def _distils(config: Config, processes: int) -> bool:
    return config.method.name in WITH_TEACHER and config.method.kd_weight != 0


def _method_or(*keys: str, names: tuple[str, ...]) -> Callable[[Config], tuple[str, ...]]:
    """The method decides, or, for one of these methods, the keys."""
    return lambda config: keys if config.method.name in names else ("method.name",)


def _phase_key(phase: int, name: str) -> Callable[[Config], str]:
    """The key that decides a value of phase 0 or 1: that of [optim.first_phase] where it is set."""

    def key(config: Config) -> str:
        own = phase == 0 and getattr(config.optim.first_phase, name) is not None
        return f"optim.first_phase.{name}" if own else f"optim.{name}"

    return key


def _is_read(name: str, phase: int, config: Config) -> bool:
    """Whether phase 0 or 1 uses its value of an [optim] key."""
    optim = config.optim_of_phase(phase)
    if name in ("milestones", "milestone_factor"):
        return optim.schedule == "milestones"
    if name == "eval_every_epochs":
        return optim.eval_every_epochs == 0 or optim.eval_every_epochs < optim.epochs
    return True


def _optim_uses(name: str) -> dict[str, Use]:
    """Both entries of a key of [optim]: its own, and that of [optim.first_phase]."""
    deciding = "epochs" if name == "eval_every_epochs" else "schedule"
    first, later = _phase_key(0, deciding), _phase_key(1, deciding)

    def used(config: Config, processes: int) -> bool:
        inherited = getattr(config.optim.first_phase, name) is None
        return _is_read(name, 1, config) or (inherited and _is_read(name, 0, config))

    return {
        f"optim.{name}": Use(used, lambda config: (later(config),)),
        f"optim.first_phase.{name}": Use(
            lambda config, processes: _is_read(name, 0, config), lambda config: (first(config),)
        ),
    }


_ALWAYS = Use()
_TIMM = Use(lambda config, processes: config.model.backbone.startswith("timm:"), _by("model.backbone"))
_FILES = Use(lambda config, processes: config.data.name in OF_FILES, _by("data.name"))
_KD = Use(_distils, _method_or("method.kd_weight", names=WITH_TEACHER))
_WA = Use(lambda config, processes: config.method.name == "wa", _by("method.name"))

TABLE: dict[str, Use] = {
    "run.seed": _ALWAYS,
    "run.device": _ALWAYS,
    "run.precision": _ALWAYS,
    "run.compile": _ALWAYS,
    "run.threads": _ALWAYS,
    "run.timeout_seconds": Use(lambda config, processes: processes != 1, _by("one process")),
    "data.name": _ALWAYS,
    "data.path": _ALWAYS,  # refused for digits, see config.py
    "data.on_error": _FILES,
    "data.exif_orientation": _FILES,
    "data.background": _FILES,
    "data.image_size": _ALWAYS,
    "data.initial_increment": _ALWAYS,
    "data.increment": _ALWAYS,
    "data.class_order": _ALWAYS,
    "data.order_seed": Use(
        lambda config, processes: config.data.class_order == "shuffled", _by("data.class_order")
    ),
    "data.mean": _ALWAYS,
    "data.std": _ALWAYS,
    "augment.auto_augment": _ALWAYS,
    "augment.backend": Use(lambda config, processes: config.augment.auto_augment != "", _by("augment.auto_augment")),
    "augment.crop_padding": _ALWAYS,
    "augment.flip": _ALWAYS,
    "augment.brightness": _ALWAYS,
    "augment.contrast": _ALWAYS,
    "augment.saturation": _ALWAYS,
    "augment.erasing": _ALWAYS,
    "model.backbone": _ALWAYS,
    "model.drop_rate": _TIMM,
    "model.drop_path_rate": _TIMM,
    "memory.size": Use(
        lambda config, processes: _has_memory(config, processes) and not config.memory.fixed_per_class,
        _method_or("memory.fixed_per_class", names=WITH_MEMORY),
    ),
    "memory.fixed_per_class": Use(_has_memory, _by("method.name")),
    "memory.selection": Use(_selects, _method_or("memory.size", "memory.fixed_per_class", names=WITH_MEMORY)),
    "method.name": _ALWAYS,
    "method.temperature": _KD,
    "method.kd_combination": _KD,
    "method.kd_weight": Use(lambda config, processes: config.method.name in WITH_TEACHER, _by("method.name")),
    "method.clip_weights": _WA,
    "method.align": _WA,
    "method.label_smoothing": _ALWAYS,
    "method.lwf_classes": Use(lambda config, processes: config.method.name == "lwf", _by("method.name")),
    **{key: use for name in PhaseOptim.model_fields for key, use in _optim_uses(name).items()},
    "checkpoint.every_seconds": _ALWAYS,
}
