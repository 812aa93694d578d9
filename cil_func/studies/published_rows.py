"""Published rows as configurations of this package: which one trains a row, or why none does."""

from collections.abc import Mapping, Sequence
from typing import Any

from cil_func import config as configuration
from cil_func.config import Config, effects
from cil_func.config.messages import nearest, shown
from cil_func.errors import ConfigError
from cil_func.report import published
from cil_func.report.published import Published

# What makes a row another one: data, phases, memory and network, which a recipe may not change.
PROTOCOL = (
    "data.initial_increment", "data.increment", "data.phases", "data.tests_on", "memory.size",
    "memory.fixed_per_class", "model.backbone", "method.name", "data.subset", "run.extends",
)  # fmt: skip
_IMAGES = {"name": ("cifar100", "image_folder"), "image_size": (0, 32)}  # of [data]; 0: the images' own


def find(name: str) -> Published:
    """Returns the published row of a name such as "wa-b50-10". Raises ConfigError if there is none."""
    rows = {row.name: row for row in published.every()}
    if name in rows:
        return rows[name]
    close = nearest(name, rows)
    hint = f"did you mean {close}?" if close else "python -m cil_func reproduce --list shows all"
    raise ConfigError(f"{shown(name)} is no published row; {hint}")


def why_not(row: Published) -> str:
    """Returns why no configuration of this package trains a row; "" if one does."""
    if row.group.closed:
        return row.group.closed
    if row.method not in effects.METHODS:
        return f"{row.method} is no method of this package"
    return ""


def settings_of(row: Published) -> list[str]:
    """Returns what a row sets in its preset, each "table.key=value". Raises ConfigError if none trains it."""
    if reason := why_not(row):
        raise ConfigError(f"{row.name} can't be trained here: {reason}")
    first, increment = published.increments_of(row.protocol)
    phases = [f"data.initial_increment={first}", f"data.increment={increment}"]
    return [f"method.name={row.method}", *phases, *row.group.settings, *row.settings]


def config_of(row: Published, more: Sequence[str] = ()) -> Config:
    """Returns the configuration that trains a row. more: settings that come after the row's own.

    Raises ConfigError if there is none, or if one of `more` is wrong or would make another row of it.
    """
    for key in configuration.set_keys(more):
        if key in PROTOCOL:
            raise ConfigError(f"--set {key}: is what {row.name} is about; take another row, or train.py")
    config = configuration.load(row.preset, [*settings_of(row), *more])
    for key, values in _IMAGES.items():
        if (value := getattr(config.data, key)) not in values:
            allowed = " or ".join(map(shown, values))
            raise ConfigError(f"--set data.{key}: {shown(value)}, and {row.name} is about CIFAR-100; {allowed}")
    return config


def has_images_of_cifar(data: Mapping[str, Any]) -> bool:
    """Returns whether a table [data] may be of CIFAR-100 as the rows have it, from its own file or image files."""
    return not data.get("subset") and all(data.get(key, 0) in values for key, values in _IMAGES.items())


def numbers(row: Published) -> str:
    """Returns average and last accuracy of a published row as text: "~67.0 / ~52.2". See `number`."""
    return " / ".join(number(value, row) for value in (row.average, row.last))


def number(value: float | None, row: Published) -> str:
    """Returns a published number as text: "64.2", "~64.2" if it is uncertain, "-" if it isn't known."""
    return "-" if value is None else "~" * row.uncertain + f"{value:.1f}"
