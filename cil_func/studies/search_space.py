"""The values that a search chooses from: `--search "optim.learning_rate=log 0.01..0.3"` and its other forms."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from cil_func.config import Config, effects
from cil_func.config.messages import shown
from cil_func.errors import ConfigError
from cil_func.studies.sweep_plan import key_of, split_values

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"(?:(log|int)\s+)?({_NUMBER})\.\.({_NUMBER})")
_FORMS = '"log 0.01..0.3", "0.1..0.9", "int 5..40" or "v1,v2,v3"'
# Phase 0 has no old classes, so these change nothing there.
_OF_LATER_PHASES = (
    "method.temperature", "method.kd_combination", "method.kd_weight", "method.align", "method.lwf_classes",
)  # fmt: skip


class Axis(NamedTuple):
    """A key of the configuration and the values that it may get.

    kind: "log" or "uniform" numbers from low to high, "int"egers from low to high, both ends included, or one of
    `choices`, each as --set takes it. low, high: 0 for choices.
    """

    key: str
    kind: Literal["log", "uniform", "int", "choice"]
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()

    @property
    def ends(self) -> tuple[str, ...]:
        """The values to check before a search begins, as --set takes them: all choices, or both ends of a range."""
        return self.choices or (self.text(self.low), self.text(self.high))

    def text(self, value: float | int | str) -> str:
        """Returns a value as --set takes it: 0.01 as "0.01", 5 as "5"."""
        if self.kind == "choice":
            return str(value)
        return str(int(value)) if self.kind == "int" else repr(float(value))


def parse(texts: Sequence[str]) -> list[Axis]:
    """Returns the axes of a search. texts: each "table.key=RANGE", see `Axis`.

    Raises ConfigError, one line, for one that isn't written like that, a range without numbers in it, a key that comes
    twice, and a key of [data] or [run], whose values would be judged on other images.
    """
    axes = [_axis(text) for text in texts]
    keys = [axis.key for axis in axes]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(f"--search {key}: comes twice; name each key once")
        if key.startswith(("data.", "run.", "checkpoint.")):
            raise ConfigError(f"--search {key}: trials have to differ in how they train alone; compare it by --grid")
    return axes


def refuse_later_phases(ends: Mapping[str, Sequence[Config]], *, by_means: bool) -> None:
    """Raises ConfigError for a key that changes nothing in phase 0, in which --first-phase tunes.

    ends: {key of an axis: the configuration with each of its `ends`}. by_means: whether a trial's method predicts by
    the means of exemplars, which it does in phase 0 too.
    """
    every = [config for configs in ends.values() for config in configs]
    for key, configs in ends.items():
        table, *parts = key.split(".")
        why = ""
        if key.startswith(_OF_LATER_PHASES):
            why = "which has no old classes"
        elif table == "memory" and not by_means:
            why = "whose exemplars serve later phases"
        elif table == "optim" and len(parts) > 1 and parts[0] not in ("first_phase", "options"):
            why = f"which has no stage {parts[0]}"
        elif table == "optim" and not _is_of_first_phase(parts, configs, every):
            why = "whose optimiser and schedule don't use it"
        if why:
            raise ConfigError(f"--search {key}: has no effect in phase 0, {why}; leave out --first-phase")


def _is_of_first_phase(parts: Sequence[str], configs: Sequence[Config], every: Sequence[Config]) -> bool:
    """Returns whether a key of [optim] or [optim.first_phase] makes a difference in phase 0.

    parts: of the key, without "optim". configs: with each end of its axis. every: with each end of each axis, since the
    value of another one may decide whether the key is used.
    """
    optims = [config.optim_of_phase(0) for config in configs]
    name = parts[1] if parts[0] == "first_phase" else parts[0]
    return any(each != optims[0] for each in optims) and any(effects.is_read(name, 0, config) for config in every)


def _axis(text: str) -> Axis:
    _, equals, values = (part.strip() for part in text.partition("="))
    key = key_of(text)
    if not equals or "." not in key or not values:
        raise ConfigError(f"--search {shown(text)}: write --search 'table.key=RANGE', RANGE being {_FORMS}")
    if found := _RANGE.fullmatch(values):
        return _range(key, values, found[1] or "uniform", found[2], found[3])
    choices = tuple(split_values(values))
    if ".." in values or not all(choices):
        raise ConfigError(f"--search {key}: {shown(values)} is no range; write {_FORMS}")
    if len(set(choices)) < 2 or len(set(choices)) < len(choices):
        raise ConfigError(f"--search {key}: {shown(values)}; give two or more values, each once, or a range: {_FORMS}")
    return Axis(key, "choice", choices=choices)


def _range(key: str, text: str, kind: str, first: str, last: str) -> Axis:
    """Returns the Axis of a range. text: of the range, for messages. first, last: its ends."""
    low, high = float(first), float(last)
    if low >= high:
        raise ConfigError(f"--search {key}: {shown(text)} has nothing in it; write the smaller number first")
    if kind == "log" and low <= 0:
        raise ConfigError(f"--search {key}: {shown(text)}; a range by logarithms has to begin above 0")
    if kind == "int" and not (low.is_integer() and high.is_integer()):
        raise ConfigError(f"--search {key}: {shown(text)}; give whole numbers, or leave out the word int")
    return Axis(key, "log" if kind == "log" else "int" if kind == "int" else "uniform", low, high)
