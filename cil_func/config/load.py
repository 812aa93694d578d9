"""The configuration: TOML in and out, overrides from the command line, combinations that are refused.

The schema is in `config_schema.py`. Imports nothing heavy, so that a mistake is answered in well under
a second. Every mistake is a `ConfigError` of one line, written by `config_errors.py`.
"""

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from cil_func.config import messages
from cil_func.config.messages import shown
from cil_func.config.schema import Config, Method, Optim
from cil_func.errors import ConfigError

__all__ = ["Config", "fingerprint", "from_dict", "load", "name_of", "presets", "set_keys", "to_dict", "to_toml"]

_CONFIGS = Path(__file__).parent / "presets"
_MAX_BYTES = 1 << 20  # a larger file is no configuration: someone named a model or a device
_HINTS = messages.hints_of(Config)


def load(name: str, overrides: Sequence[str] = ()) -> Config:
    """Reads a configuration and overrides single values of it.

    name: a path, else a name in `cil_func/config/presets/`, with or without ".toml". overrides: each
    "table.key=value" (or "optim.first_phase.key=value"); the value is TOML, and what is no TOML is a
    string. `optim.first_phase={}` drops what the file says about the first phase.
    Raises ConfigError, one line: no such file, no TOML, or a key, type, range or combination that is wrong.
    """
    tables = _read(_find(name))
    for override in overrides:
        _override(tables, override)
    return from_dict(tables)


def from_dict(tables: Mapping[str, Any]) -> Config:
    """A configuration from {table: {key: value}}, as `to_dict` makes it. Raises as `load` does."""
    try:
        config = Config.model_validate(tables)
    except ValidationError as failure:
        raise messages.first_of(messages.mistakes_in(tables, failure, _HINTS)) from None
    mistakes = list(_combinations(config))
    if mistakes:
        raise messages.first_of(mistakes)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """The resolved configuration as dicts, lists, strings, numbers: what TOML and JSON can hold."""
    # None is what [optim.first_phase] leaves to [optim]; TOML has no word for it.
    return config.model_dump(mode="json", exclude_none=True)


def to_toml(config: Config) -> str:
    """The resolved configuration as TOML; `load` makes an equal one of it."""
    return tomli_w.dumps(to_dict(config))


def fingerprint(config: Config) -> str:
    """8 hexadecimal digits that differ where two configurations do (SHA-256 of the sorted JSON)."""
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()[:8]


def set_keys(overrides: Sequence[str]) -> list[str]:
    """The dotted keys of some "table.key=value", as `load` takes them."""
    return [messages.dotted(_parts(override.partition("=")[0])) for override in overrides]


def name_of(name: str) -> str:
    """What the default run directory is called after: "cifar" for "cifar", "cifar.toml", "my/cifar.toml"."""
    return Path(name).name.removesuffix(".toml")


def presets() -> list[str]:
    """The names in `cil_func/config/presets/`, without ".toml"."""
    return sorted(path.stem for path in _CONFIGS.glob("*.toml"))


def _find(name: str) -> Path:
    """The file that a name means. A folder that happens to be called like a preset doesn't hide it."""
    preset = name.removesuffix(".toml")
    if os.path.exists(name) and not os.path.isdir(name):  # os.path raises for no name, however odd
        return Path(name)
    if preset in presets():
        return _CONFIGS / f"{preset}.toml"
    if os.path.isdir(name):
        raise ConfigError(f"--config {shown(name)}: a folder; name a TOML file in it")
    close = messages.nearest(preset, presets())
    raise ConfigError(
        f"--config {shown(name)}: no such file, and no such name; there are {', '.join(presets())}"
        + (f"; did you mean {close}?" if close else "")
    )


def _read(path: Path) -> dict[str, Any]:
    """The tables of a TOML file, however it is broken: a ConfigError with the file and the line."""
    place = f"--config {shown(str(path), length=200)}"
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigError(f"{place}: more than 1 MiB, so no configuration; name a TOML file")
        return tomllib.loads(content.decode("utf-8-sig"))  # sig: Windows editors put a byte order mark
    except OSError as failure:
        raise ConfigError(f"{place}: cannot be read ({failure.strerror}); name a TOML file") from None
    except UnicodeDecodeError as failure:
        line = content.count(b"\n", 0, failure.start) + 1
        raise ConfigError(f"{place}, line {line}: not UTF-8; save the file as UTF-8 text") from None
    except RecursionError:
        raise ConfigError(f"{place}: nested too deep; tables and keys are all there is") from None
    except ValueError as failure:  # TOMLDecodeError, and Python's own for an integer of 4,300 digits
        what, line, column = _located(str(failure))
        raise ConfigError(f"{place}{line}: not TOML: {what}{column}") from None


def _located(message: str) -> tuple[str, str, str]:
    """tomllib's "what (at line 3, column 5)" in three parts: the line is what one looks for first."""
    found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", message, re.DOTALL)
    return (found[1], f", line {found[2]}", f" (column {found[3]})") if found else (message, "", "")


def _override(tables: dict[str, Any], override: str) -> None:
    """Puts one `--set table.key=value` into the tables, in place."""
    key, equals, text = override.partition("=")
    parts = _parts(key)
    name = messages.dotted(parts)
    if name not in _HINTS:
        raise ConfigError("--set " + messages.unknown_key(parts, _HINTS))
    if len(parts) == 1:
        raise ConfigError(f"--set {name}: a whole table; set its keys, each as {name}.key=value")
    if not equals:
        raise ConfigError(f'--set {name}: no "="; write --set {name}=value')
    for depth, part in enumerate(parts[:-1], start=1):
        tables = tables.setdefault(part, {})
        if not isinstance(tables, dict):
            table = messages.dotted(parts[:depth])
            raise ConfigError(f"{table}: {shown(tables)} is not allowed; a table of keys")
    tables[parts[-1]] = _value(name, text.strip())


def _parts(key: str) -> list[str]:
    return [part.strip() for part in key.split(".")]


def _value(name: str, text: str) -> Any:
    """The value of an override: TOML, else the text itself as a string."""
    try:
        text.encode()
        parsed = tomllib.loads(f"value = {text}")
    except UnicodeEncodeError:  # an argument of the shell that is not UTF-8, and could not be written to TOML
        raise ConfigError(f"--set {name}: {shown(text)} is not UTF-8") from None
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if len(parsed) == 1 else text  # a line break may have brought a second key


def _combinations(config: Config) -> Iterator[str]:
    """Messages for values that are allowed one by one, but not together."""
    data, memory = config.data, config.memory
    if data.name in ("image_folder", "imagenet100", "imagenet1000") and not data.path:
        allowed = "the path of a folder that holds train/ and test/ (or val/)"
        yield f"data.path: missing, with data.name = {shown(data.name)}; {allowed}"
    if data.name == "digits" and data.path:
        allowed = 'data.name = "image_folder" to train on that folder, or no path'
        yield f'data.path: {shown(data.path)} with data.name = "digits", which is in no folder; {allowed}'
    if bool(data.mean) != bool(data.std):
        lacking, given = ("std", "mean") if data.mean else ("mean", "std")
        yield f"data.{lacking}: [] with data.{given} = {shown(getattr(data, given))}; give both or neither"
    yield from _kd_mistakes(config.method)
    if config.method.name == "icarl" and not (memory.size or memory.fixed_per_class):
        given = 'memory.size: 0 with method.name = "icarl", which predicts by exemplars'
        yield f"{given}; an integer >= 1, or memory.fixed_per_class >= 1"
    backbone = config.model.backbone
    mistakes = list(_optim_mistakes(config.optim, "optim", backbone))
    yield from mistakes or _optim_mistakes(config.optim_of_phase(0), "optim.first_phase", backbone)


def _kd_mistakes(method: Method) -> Iterator[str]:
    """The two weights of distillation that mean nothing: (1 - w) CE below 0, and a share in a sum."""
    combination, weight = method.kd_combination, method.kd_weight
    given = f"method.kd_weight: {shown(weight)} with kd_combination = {shown(combination)}"
    if combination == "sum" and weight == "dynamic":
        yield f'{given}; a number >= 0, or kd_combination = "convex"'
    if combination == "convex" and weight != "dynamic" and weight > 1:
        yield f'{given}; a number in 0..1, or "dynamic", or kd_combination = "sum"'


def _optim_mistakes(optim: Optim, table: str, backbone: str) -> Iterator[str]:
    """What doesn't fit inside one phase's [optim]; `table` is where a person mends it."""
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
    elif backbone.startswith("timm:") and norm_batch not in (0, optim.batch_size):
        whole = f"model.backbone = {shown(backbone)}: groups are for the resnets without timm"
        yield f"{given} and {whole}; 0 or batch_size"
