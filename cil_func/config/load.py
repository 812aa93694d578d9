"""Reads and writes the configuration: TOML in and out, and overrides from the command line.

The keys are in `schema.py`. Imports nothing heavy, so that a mistake is answered in well under a second. Every mistake
is a `ConfigError` of one line, written by `messages.py`.
"""

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from cil_func.config import combinations, messages, names, stages
from cil_func.config.messages import shown
from cil_func.config.schema import Config
from cil_func.config.values import SUBSETS
from cil_func.errors import ConfigError

__all__ = ["Config", "fingerprint", "from_dict", "load", "name_of", "presets", "set_keys", "to_dict", "to_toml"]

_CONFIGS = Path(__file__).parent / "presets"
_MAX_BYTES = 1 << 20  # a larger file is no configuration: someone named a model or a device
_HINTS = messages.hints_of(Config)
# Keys that came after the first runs. `fingerprint` leaves them out where they have their default.
ADDED = (
    "data.options", "model.options", "memory.mirror_means", "memory.keep", "method.options", "optim.name",
    "optim.options", "optim.accumulate", "run.extends", "run.loggers", "model.weights", "model.freeze",
    "optim.rate_factors", "data.phases", "data.validation", "data.tests_on", "data.storage", "data.workers",
    "data.packed", "data.subset", "augment.window", "run.recompute",
)  # fmt: skip


def load(name: str, overrides: Sequence[str] = ()) -> Config:
    """Returns the configuration that a file or preset holds, with single values of it overridden.

    name: a path, else a name in `cil_func/config/presets/`, with or without ".toml".
    overrides: each "table.key=value", also "optim.first_phase.key=value", "optim.STAGE.key=value" and
    "method.options.key=value"; the value is TOML, and what is no TOML is a string. `optim.first_phase={}` drops what
    the file says about the first phase.
    A user's own function in a file ("own.py:make") gets an absolute path: that of the file beside the configuration, or
    else in the current directory; in an override, the other way round. Where there is none it stays as it is. data.path
    and the file of data.subset get one too if they are there, in the current directory.
    Raises ConfigError, one line: no such file, no TOML, or a key, type, range or combination that is wrong.
    """
    path = _find(name)
    tables = _read(path)
    _locate(tables, [path.parent, os.curdir])
    for override in overrides:
        _override(tables, override)
    _locate(tables, [os.curdir, path.parent])  # the overrides' names: those of the file are absolute by now
    return from_dict(tables)


def of_run(directory: str | os.PathLike) -> Config:
    """Returns the configuration that a run directory holds. Raises ConfigError, which names the file of a mistake."""
    path = Path(directory) / "config.toml"
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; put it back from a copy of the run")
    try:
        return load(str(path))
    except ConfigError as error:
        text = str(error)
        if text.startswith("--config "):  # which names the file
            raise ConfigError(text.removeprefix("--config ")) from error
        raise ConfigError(f"{path}: {text}; the version that wrote it may read it") from error


def from_dict(tables: Mapping[str, Any]) -> Config:
    """Returns the configuration with these tables, as `to_dict` makes them; a missing key has its default.

    tables: {table: {key: value}}. Raises ConfigError, one line, for an unknown key, and for a type, range or
    combination that is wrong.
    """
    known, unknown = stages.without_unknown(tables)
    try:
        config = Config.model_validate(known)
    except ValidationError as failure:
        mistakes = messages.mistakes_in(known, failure, _HINTS | stages.hints(known))
        raise messages.first_of(mistakes + unknown) from None
    mistakes = unknown or list(combinations.of_config(config))
    if mistakes:
        raise messages.first_of(mistakes)
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """Returns {table: {key: value}} of the whole configuration, defaults included, in types that TOML and JSON have.

    Keys of [optim.first_phase] and [optim.STAGE] that aren't set are left out.
    """
    # None is what [optim.first_phase] leaves to [optim]; TOML has no word for it.
    return config.model_dump(mode="json", exclude_none=True)


def to_toml(config: Config) -> str:
    """Returns the whole configuration as TOML text, defaults included; `load` makes an equal configuration of it."""
    return tomli_w.dumps(to_dict(config))


def fingerprint(config: Config) -> str:
    """Returns 8 hexadecimal digits that differ if two configurations do: the start of a SHA-256 of the sorted JSON.

    Default run directories have it in their names, so a key that came later (`ADDED`) counts only if it isn't at its
    default: a configuration without it keeps its directory.
    """
    tables, defaults = to_dict(config), to_dict(Config())
    for key in ADDED:
        table, _, name = key.partition(".")
        if tables[table][name] == defaults[table][name]:
            del tables[table][name]
    return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()[:8]


def set_keys(overrides: Sequence[str]) -> list[str]:
    """Returns the dotted keys of overrides "table.key=value", as `load` takes them. Checks nothing."""
    return [messages.dotted(_parts(override.partition("=")[0])) for override in overrides]


def name_of(name: str) -> str:
    """Returns the name for a default run directory: "cifar" for --config "cifar", "cifar.toml" or "my/cifar.toml"."""
    return Path(name).name.removesuffix(".toml")


def presets() -> list[str]:
    """Returns the names of the presets in `cil_func/config/presets/`, without ".toml", sorted."""
    return sorted(path.stem for path in _CONFIGS.glob("*.toml"))


def _find(name: str) -> Path:
    """Returns the path of the TOML file that a name of --config means.

    A file comes before a preset of the same name; a folder that is called like a preset doesn't hide it.
    Raises ConfigError if there is no such file and no such preset.
    """
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
    """Returns the tables of a TOML file. Raises ConfigError, with file and line, if it can't be read or is no TOML."""
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
        what, where, column = _located(str(failure))
        raise ConfigError(f"{place}{where}: not TOML: {what}{column}") from None


def _located(message: str) -> tuple[str, str, str]:
    """Splits tomllib's "what (at line 3, column 5)" into ("what", ", line 3", " (column 5)").

    So a message can name the line first. A message without a place is returned as (message, "", "").
    """
    found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", message, re.DOTALL)
    return (found[1], f", line {found[2]}", f" (column {found[3]})") if found else (message, "", "")


def _locate(tables: dict[str, Any], folders: Sequence[str | Path]) -> None:
    """Makes the paths of a user's own functions, and of images that are there, absolute, in place; see `load`.

    tables: of the configuration, not checked yet. folders: searched in this order.
    """
    optim, data = tables.get("optim"), tables.get("data", {})
    parts = [part for part in optim.values() if isinstance(part, dict)] if isinstance(optim, dict) else []
    holders = [("backbone", tables.get("model")), *(("name", each) for each in (data, tables.get("method"), optim))]
    for key, table in [*holders, *(("name", part) for part in parts)]:
        if isinstance(table, dict) and isinstance(table.get(key), str):
            table[key] = names.located(table[key], folders)
    for key, value in data.items() if isinstance(data, dict) else ():
        if key in ("path", "subset") and isinstance(value, str) and value not in SUBSETS and os.path.exists(value):
            data[key] = os.path.abspath(value)


def _override(tables: dict[str, Any], override: str) -> None:
    """Puts the value of one `--set table.key=value` into the tables, in place.

    tables: {table: {key: value}}, not checked yet. override: the text behind --set. Raises ConfigError, one line, for
    an unknown key, a missing "=" or text that isn't UTF-8.
    """
    key, equals, text = override.partition("=")
    parts = _parts(key)
    name, known = messages.dotted(parts), _is_known(parts)
    value = _value(name, text.strip()) if known or stages.is_stage(parts) else None
    if not known and not (len(parts) == 2 and isinstance(value, dict)):  # a whole table [optim.STAGE]
        hints = _HINTS | (stages.hints({"optim": {parts[1]: {}}}) if len(parts) > 2 else {})
        raise ConfigError("--set " + messages.unknown_key(parts, hints))
    if len(parts) == 1:
        raise ConfigError(f"--set {name}: a whole table; set its keys, each as {name}.key=value")
    if not equals:
        raise ConfigError(f'--set {name}: no "="; write --set {name}=value')
    for depth, part in enumerate(parts[:-1], start=1):
        tables = tables.setdefault(part, {})
        if not isinstance(tables, dict):
            table = messages.dotted(parts[:depth])
            raise ConfigError(f"{table}: {shown(tables)} is not allowed; a table of keys")
    tables[parts[-1]] = value


def _is_known(parts: Sequence[str]) -> bool:
    """Returns whether a configuration can have a key: one of the schema, of a stage, or an option in a free table.

    parts: of the dotted key.
    """
    if stages.is_stage(parts) and len(parts) > 2:
        parts = ["optim", "first_phase", *parts[2:]]
    free = any(messages.is_free(_HINTS.get(messages.dotted(parts[:depth]))) for depth in range(2, len(parts)))
    return free or messages.dotted(parts) in _HINTS


def _parts(key: str) -> list[str]:
    return [part.strip() for part in key.split(".")]


def _value(name: str, text: str) -> Any:
    """Returns the value of an override: `text` read as TOML, else as a string. name: the key, for messages."""
    try:
        text.encode()
        parsed = tomllib.loads(f"value = {text}")
    except UnicodeEncodeError:  # an argument of the shell that is not UTF-8, and could not be written to TOML
        raise ConfigError(f"--set {name}: {shown(text)} is not UTF-8") from None
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if len(parsed) == 1 else text  # a line break may have brought a second key
