"""The runs of a sweep: every combination of the values of a grid, of seeds and of class orders."""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cil_func import config as configuration
from cil_func.config import Config, effects
from cil_func.config.messages import shown
from cil_func.errors import ConfigError
from cil_func.runs import own_code
from cil_func.runs.method_of import method_to_train

SEED, ORDER = "run.seed", "data.order_seed"
_LONGEST = 120  # characters of a name
_ODD = re.compile(r"[^\w.+-]+")  # what is replaced in the name of a run directory


class Run(NamedTuple):
    """One run of a sweep.

    name: of its directory inside the sweep's. settings: what it sets, each "table.key=value". group: the part of them
    that comes from the grid; runs of one group differ in seed and order alone. pair: (seed, order), by which runs of
    two groups are compared.
    """

    name: str
    settings: tuple[str, ...]
    group: tuple[str, ...]
    pair: tuple[str, str]


def runs(grid: Sequence[str], seeds: Sequence[str], orders: Sequence[str]) -> list[Run]:
    """Returns all runs of a sweep, group after group.

    grid: each "table.key=v1,v2"; a value that holds commas itself is put into brackets or quotes. seeds, orders: of
    run.seed, and of data.order_seed with a shuffled class order; (): the configuration's own.
    Raises ConfigError for a grid that isn't written like that, and for a key or value that comes twice.
    """
    axes = [_axis(text) for text in grid]
    keys = [*(key for key, _ in axes), *_given_by(seeds, orders)]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise ConfigError(f"{twice[0]} comes twice; name each key once, seeds by --seeds, orders by --orders")
    found: list[Run] = []
    for values in itertools.product(*(values for _, values in axes)):
        group = tuple(f"{key}={value}" for (key, _), value in zip(axes, values, strict=True))
        words = [f"{key.rpartition('.')[2]}-{value}" for (key, _), value in zip(axes, values, strict=True)]
        for seed, order in itertools.product(seeds or [""], orders or [""]):
            more = [f"{SEED}={seed}"] if seed else []
            more += ["data.class_order=shuffled", f"{ORDER}={order}"] if order else []
            name = "_".join([*words, *([f"seed-{seed}"] if seed else []), *([f"order-{order}"] if order else [])])
            found.append(Run(_ODD.sub("", name)[:_LONGEST] or "run", (*group, *more), group, (seed, order)))
    names = [run.name for run in found]
    return [run._replace(name=_marked(run)) if names.count(run.name) > 1 else run for run in found]


def refuse_set(settings: Sequence[str], seeds: Sequence[str], orders: Sequence[str]) -> None:
    """Raises ConfigError if one of the settings for all runs is what --seeds or --orders gives each. See `runs`."""
    flags = _given_by(seeds, orders)
    for key in configuration.set_keys(settings):
        if key in flags:
            raise ConfigError(f"--set {key}: give it by {flags[key]}, which sets it in each run")


def _given_by(seeds: Sequence[str], orders: Sequence[str]) -> dict[str, str]:
    """Returns {key: the flag that sets it}."""
    by_order = dict.fromkeys((ORDER, "data.class_order"), "--orders") if orders else {}
    return ({SEED: "--seeds"} if seeds else {}) | by_order


def _marked(run: Run) -> str:
    """Returns the name of a run, cut, with a checksum of its settings, so that it is like no other of the sweep."""
    mark = hashlib.sha256(repr(run.settings).encode()).hexdigest()[:12]
    return f"{run.name[: _LONGEST - len(mark) - 1]}-{mark}"


def checked(config: str, settings: Sequence[str], planned: Sequence[Run]) -> list[Config]:
    """Returns the configuration of each run. Raises ConfigError, which names the run, if one of them, or its method's
    options, is wrong.

    config: a path or preset. settings: for all runs, each "table.key=value"; those of a run come after them.
    """
    found = []
    for run in planned:
        try:
            found.append(configuration.load(config, [*settings, *run.settings]))
            own_code.renew(found[-1])  # each run is a process of its own
            method_to_train(found[-1])
        except ConfigError as error:
            words, line = f" (run {run.name})" if len(planned) > 1 else "", str(error)
            for key, _, _ in (setting.partition("=") for setting in run.group):
                line = line.replace(f"--set {key}:", f"--grid {key}:", 1)
            raise ConfigError(f"{line}{words}") from error
    return found


def without_effect(configs: Sequence[Config], keys: Sequence[str]) -> dict[str, int]:
    """Returns {a line about one of the dotted keys that has no effect, and why: in how many configurations}."""
    lines = (effects.without_effect(config, [key]) for key in keys for config in configs)
    return Counter(line for line in lines if line)


def command(config: str, settings: Sequence[str], run: Run, directory: Path) -> list[str]:
    """Returns the arguments of train.py that train a run of the sweep in `directory`."""
    words = [word for setting in (*settings, *run.settings) for word in ("--set", setting)]
    return ["--config", config, *words, "--out", str(directory / run.name)]


def _axis(text: str) -> tuple[str, list[str]]:
    """Returns (key, values) of a --grid. Raises ConfigError if it isn't "table.key=v1,v2"."""
    _, equals, values = text.partition("=")
    key, found = key_of(text), split_values(values)
    if not equals or "." not in key or not all(found):
        raise ConfigError(f"--grid {shown(text)}: write --grid table.key=v1,v2")
    if len(set(found)) < len(found):
        raise ConfigError(f"--grid {shown(text)}: a value comes twice")
    return key, found


def key_of(text: str) -> str:
    """Returns the key of "table.key=...", without the spaces around its parts, which --set doesn't mind either."""
    return ".".join(part.strip() for part in text.partition("=")[0].split("."))


def split_values(text: str) -> list[str]:
    """Returns the parts between commas, but not those between commas inside brackets, braces or quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if letter == "," and not depth and not quote:
            parts.append("")
            continue
        parts[-1] += letter
        if quote or letter in "\"'":
            quote = "" if letter == quote else quote or letter
        else:
            depth += (letter in "[{") - (letter in "]}")
    return [part.strip() for part in parts]
