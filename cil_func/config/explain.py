"""Explains keys to a person: `train.py --explain KEY`, and the table in README.md beside it."""

import textwrap
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from cil_func.config import effects, meanings, messages
from cil_func.config.messages import Allowed, shown
from cil_func.config.schema import Config, Method
from cil_func.config.stages import is_stage
from cil_func.errors import ConfigError

_HINTS = messages.hints_of(Config)
_WIDTH = 100  # characters of a line


def explain(key: str) -> str:
    """Returns what there is to know about a key, or a list of what a table has, as lines of text.

    key: dotted, also that of a stage ("optim.bias.epochs") or of an option ("method.options.strength"); "optim" or
    "[optim]" lists a table; "" lists all.
    Raises ConfigError for an unknown key; the message names the nearest known one.
    """
    key = key.strip().removeprefix("[").removesuffix("]")
    parts = [part.strip() for part in key.split(".")]
    if not key:
        return "\n".join([*_listed(""), "", "--explain KEY, as in --explain optim.epochs, says more about one key."])
    known = _known(parts)
    if known not in _HINTS:
        raise ConfigError("--explain " + messages.unknown_key(parts, _HINTS))
    if _is_table(known):
        return "\n".join([*_headed(key, known), "", *_listed(f"{known}.")])
    return "\n".join([key, *(f"  {line}".rstrip() for line in _about(key, known))])


def readme_table() -> str:
    """Returns the table of all keys in README.md beside this file, in Markdown."""
    rows = [("key", "meaning", "values", "default"), ("---",) * 4]
    for key in _HINTS:
        if _is_table(key):
            rows.append((f"`[{key}]`", _meaning(key), "", ""))
        elif not key.startswith("optim.first_phase."):
            rows.append((f"`{key}`", _meaning(key), messages.allowed(_HINTS[key]), f"`{shown(_default(key))}`"))
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |\n" for row in rows)


def meaning(key: str) -> str:
    """Returns what a key means, in words; for an option that of its table, for a key of a stage that of [optim].

    key: dotted, as a configuration has it.
    """
    return _meaning(_known(key.split(".")))


def example(key: str) -> Any:
    """Returns a value that a key takes and that isn't its default, in TOML's types; {} for a table of free options.

    key: dotted, of the schema. The value is the example of the key's `Allowed` note, or else follows from its type,
    range and default.
    """
    hint, default = _HINTS[key], _default(key)
    given = [note.example for note in _notes(hint) if isinstance(note, Allowed) and note.example is not None]
    if given:
        return given[0]
    if messages.is_free(hint):
        return {}
    if isinstance(default, int | float) and not isinstance(default, bool):
        tried = [2 * default, 1, 32] if isinstance(default, int) else [2 * default, default / 2, 0.1]
    else:
        tried = [*messages.choices(hint), 0.5]
    return next(value for value in tried if value != default and messages.fits(value, hint))


def _known(parts: Sequence[str]) -> str:
    """Returns the dotted key of the schema that says what a key takes, given the key's parts.

    For a key of a stage it is that of [optim.first_phase], for an option its table, for any other the key itself.
    """
    if is_stage(parts):
        parts = ["optim", "first_phase", *parts[2:]]
    for at in range(2, len(parts)):
        if messages.is_free(_HINTS.get(".".join(parts[:at]))):
            return ".".join(parts[:at])
    return ".".join(parts)


def _about(key: str, known: str) -> list[str]:
    """Returns the lines that explain one key: its meaning, what it takes, default, users and an example.

    key: as the person wrote it. known: the key of the schema that says what it takes, from `_known`.
    """
    part, given = known.startswith("optim.first_phase."), example(known)
    if given == {}:
        flag = f"--set {key}.NAME=VALUE" if messages.is_free(_HINTS.get(key)) else f"--set {key}=VALUE"
    else:
        flag = f"--set {key}={given if isinstance(given, str) else shown(given)}"
    return [
        *textwrap.wrap(_meaning(known), _WIDTH - 2),
        "",
        f"takes    {messages.allowed(_HINTS[known])}",
        f"default  {'as in [optim], or the stage has its own' if part else shown(_default(known))}",
        f"used by  {_users(key)}",
        f"example  {flag}",
    ]


def _users(key: str) -> str:
    """Returns which methods use a key, in words; if none does with the defaults, which value decides that."""
    default = Config()
    use = effects.use_of(key)
    used = [
        name for name in effects.METHODS
        if use.when(default.model_copy(update={"method": Method(name=name)}), 2)
    ]  # fmt: skip
    if len(used) == len(effects.METHODS):
        return "all methods"
    if used:
        return ", ".join([*used, "your own"])
    decided = " and ".join(f"{deciding} = {shown(_default(deciding))}" for deciding in use.deciding(default))
    return f"no method while {decided}, the default" if "method.name" not in decided else "a method of your own"


def _listed(prefix: str) -> list[str]:
    """Returns one line for each table or key directly below a prefix: its name and the start of its meaning.

    prefix: "optim." for that table's keys; "": all tables, each with its keys.
    """
    keys = [key for key in _HINTS if key.startswith(prefix) and "." not in key[len(prefix) :]]
    if not prefix:
        return [line for key in keys for line in ("", *_headed(key, key), *_listed(f"{key}."))][1:]
    width = max(len(key) for key in keys)
    starts = [textwrap.shorten(_meaning(key), _WIDTH - width - 4, placeholder=" …") for key in keys]
    return [f"  {key:<{width}}  {start}" for key, start in zip(keys, starts, strict=True)]


def _headed(key: str, known: str) -> list[str]:
    """Returns the heading of a table, "[KEY]: its meaning", as lines of at most _WIDTH characters.

    key: the table as the person wrote it ("optim.bias"), which is put into the brackets. known: the table of the schema
    that it stands for, from `_known` ("optim.first_phase"), whose meaning follows.
    """
    return textwrap.wrap(f"[{key}]: {_meaning(known)}", _WIDTH, subsequent_indent="  ")


def _meaning(key: str) -> str:
    return meanings.of_keys()[key]


def _default(key: str) -> Any:
    """Returns the default of a key; for a key of [optim.first_phase], that of [optim]."""
    value: Any = Config()
    for part in key.replace("optim.first_phase.", "optim.").split("."):
        value = getattr(value, part)
    return value


def _is_table(key: str) -> bool:
    hint = _HINTS[key]
    return isinstance(hint, type) and issubclass(hint, BaseModel)


def _notes(hint: Any) -> list[Any]:
    """Returns all notes that an annotation and its members have in `Annotated[type, note, ...]`, in order."""
    members = getattr(hint, "__args__", ())
    return [*getattr(hint, "__metadata__", ()), *(note for member in members for note in _notes(member))]
