"""Writes configuration mistakes as one line for a person.

Each line names the dotted key, what was given, what is allowed, and the nearest key or value if the given one looks
like a typo. What is allowed is read off a schema's annotations (as in `schema.py`).
"""

import difflib
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Interval
from pydantic import BaseModel, TypeAdapter, ValidationError

from cil_func.config.free_table import LARGEST, FreeTable
from cil_func.errors import ConfigError, printable

_SHOWN_LENGTH = 60  # characters of a given value that a message repeats
_NAMED = 12  # choices that a message names
# What people write for these has too few letters in common with the right word, or more with a wrong one.
_SYNONYMS = {"gpu": "cuda", "lr": "learning_rate", "wd": "weight_decay"}
_NOUNS: dict[Any, str] = {int: "an integer", float: "a number", bool: "true or false", str: "a string in quotes"}
_NOUNS[int | float] = _NOUNS[float]


@dataclass(frozen=True)
class Allowed:
    """A note in a field's `Annotated`, for types and ranges that don't say well which values the field takes.

    text: the allowed values in words, for messages and the README; said instead of the type and the range.
    example: one such value that is not the default, see `explain.example`; None: none is given.
    """

    text: str
    example: Any = field(default=None, hash=False)


def first_of(mistakes: Sequence[str]) -> ConfigError:
    """Returns a ConfigError with the first of one or more messages, and how many more there are. Doesn't raise it."""
    more = len(mistakes) - 1
    return ConfigError(mistakes[0] + (f"; and {more} more mistake{'s' if more > 1 else ''}" if more else ""))


def shown(value: object, *, length: int = _SHOWN_LENGTH) -> str:
    """Returns a value as TOML would write it, but for what a screen can't show, cut to `length` characters."""
    if isinstance(value, str | bool):
        text = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(shown(item) for item in value[:length]) + "]"
    elif isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key} = {shown(item)}" for key, item in value.items()) + "}"
    elif isinstance(value, int) and value.bit_length() > 1000:
        text = f"{value:#x}"  # str() raises beyond 4,300 digits
    else:
        text = str(value)
    return text if len(text := printable(text)) <= length else f"{text[: length - 2]} …"


def dotted(parts: Iterable[str]) -> str:
    """Returns a key like "optim.epochs" from its parts; a part that is no bare TOML key is quoted and shortened."""
    return ".".join(part if re.fullmatch(r"[\w-]{1,40}", part, re.ASCII) else shown(part) for part in parts)


def nearest(word: str, words: Iterable[str]) -> str | None:
    """Returns the one of `words` that `word` is most likely a slip of; None if none is near."""
    by_lower = {each.lower(): each for each in words}
    word = _SYNONYMS.get(word.lower(), word.lower())[:_SHOWN_LENGTH]
    return by_lower.get(next(iter(difflib.get_close_matches(word, by_lower, n=1, cutoff=0.5)), ""))


def hints_of(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Returns {dotted key: its annotation} of a schema, a class of tables. A table has an entry too, before its own."""
    hints = {}
    for name, hint in typing.get_type_hints(model, include_extras=True).items():
        if name in model.model_fields:
            hints[prefix + name] = hint
            hints |= hints_of(hint, f"{prefix}{name}.") if _is_table(hint) else {}
    return hints


def unknown_key(parts: Sequence[str], hints: Mapping[str, Any]) -> str:
    """Returns the message for an unknown key: the one of `hints` that was probably meant, or those beside it."""
    *table, name = parts
    prefix = ".".join(table)
    beside = {key.rpartition(".")[2]: key for key in hints if key.rpartition(".")[0] == prefix}
    elsewhere = {key.rpartition(".")[2]: key for key in reversed([*hints])}  # reversed: the outermost wins
    whole = nearest(".".join(parts), hints) if table and not beside else None
    meant = elsewhere.get(name) or beside.get(nearest(name, beside) or "") or whole
    meant = meant or elsewhere.get(nearest(name, elsewhere) or "")
    if meant:
        is_table = _is_table(hints[meant]) or is_free(hints[meant])
        hint = f"did you mean [{meant}]?" if is_table else f"did you mean {meant}?"
    elif table and beside:
        hint = f"[{prefix}] has {', '.join(beside)}"
    else:
        hint = "there are " + ", ".join(f"[{key}]" for key in hints if "." not in key)
    return f"{dotted(parts)}: unknown {'key' if table else 'table'}; {hint}"


def mistakes_in(raw: Mapping[str, Any], failure: ValidationError, hints: Mapping[str, Any]) -> list[str]:
    """Returns one message for each key that pydantic refused in the tables `raw`, in the order of its errors.

    failure: pydantic's. hints: {dotted key: its annotation} of all keys that `raw` may have.
    """
    messages: dict[str, str] = {}
    for item in failure.errors(include_url=False, include_context=False):
        parts = _key_of(item["loc"], hints)
        if item["type"] == "extra_forbidden":
            parts = [str(part) for part in item["loc"]]
            message = unknown_key(parts, hints)
        elif parts != list(item["loc"][: len(parts) + 1]) and is_free(hints[dotted(parts)]):  # one option in it
            parts = [*parts, str(item["loc"][len(parts)])]
            message = _refused_option(parts, _value_at(raw, parts))
        else:
            message = _refused(dotted(parts), _value_at(raw, parts), hints[dotted(parts)])
        messages.setdefault(dotted(parts), message)  # a union reports each of its members: once is enough
    return list(messages.values())


def allowed(hint: Any, *, most: int | None = None) -> str:
    """Returns what a key with annotation `hint` takes, such as 'one of "a", "b"'. most: choices named; None: all."""
    if _is_table(hint):
        return "a table of keys"
    if is_free(hint):
        return "a table of options"
    if typing.get_origin(hint) is Annotated:
        base, *notes = typing.get_args(hint)
        texts = [note.text for note in notes if isinstance(note, Allowed)]
        ranges = [_range(note) for note in notes if isinstance(note, Interval)]
        return texts[0] if texts else " ".join([allowed(base, most=most), *ranges])
    if typing.get_origin(hint) is Literal:
        values = [shown(value) for value in typing.get_args(hint)]
        rest = f" and {len(values) - most} more (see train.py --explain)" if most and len(values) > most else ""
        return "one of " * (len(values) > 1) + ", ".join(values[:most]) + rest
    if _is_union(hint) and hint not in _NOUNS:
        return " or ".join(allowed(member, most=most) for member in _members(hint))
    return _NOUNS.get(hint, str(hint))


def is_plain(hint: Any) -> bool:
    """Returns whether the words of `allowed` say all that the annotation `hint` asks for."""
    if typing.get_origin(hint) is Annotated:
        base, *notes = typing.get_args(hint)
        return is_plain(base) and all(isinstance(note, Allowed | Interval) for note in notes)
    if _is_union(hint):
        return all(is_plain(member) for member in _members(hint))
    return hint in _NOUNS if isinstance(hint, type) else typing.get_origin(hint) is Literal


def _refused(key: str, given: Any, hint: Any) -> str:
    message, meant = f"{key}: {shown(given)} is not allowed; {allowed(hint, most=_NAMED)}", _suggestion(given, hint)
    return f"{message}; did you mean {meant}?" if meant else message


def _refused_option(parts: Sequence[str], given: Any) -> str:
    """Returns the message for one option of a free table whose name or value isn't allowed."""
    text = "a string, true or false, an integer of 64 bits, a finite number, or a list or table of these"
    text = text if parts[-1].isidentifier() else "an option's name has letters, digits and _ alone"
    return f"{dotted(parts)}: {shown(given)} is not allowed; {text}"


def _suggestion(given: Any, hint: Any) -> str | None:
    """Returns the nearest of the choices, or the value with or without quotes if that fits; None if neither."""
    if isinstance(given, str) and given.endswith(".py") and fits(f"{given}:make", hint):  # the function is missing
        return shown(f"{given}:make")
    if isinstance(given, str):
        words = {str(choice).lower(): shown(choice) for choice in choices(hint)}
        close = None if ":" in given else nearest(given, words)  # with a colon it is a function of the user's own
        return words[close] if close else next((shown(n) for n in _numbers(given) if fits(n, hint)), None)
    text = shown(given)
    quotable = not isinstance(given, Mapping | list) and not text.endswith("…")
    return shown(text) if quotable and fits(text, hint) else None


def choices(hint: Any) -> tuple:
    """Returns every value that an annotation names: true and false of a bool, the values of a Literal; () if none."""
    if hint is bool:
        return (True, False)
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    if typing.get_origin(hint) is Annotated or _is_union(hint):
        return sum((choices(member) for member in _members(hint)), ())
    return ()


def fits(value: Any, hint: Any) -> bool:
    """Returns whether a key with annotation `hint` takes a value; TOML's types are not converted."""
    try:
        TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _numbers(text: str) -> list[int | float]:
    """Returns [the number that a string may have meant], such as Python's `.1` or a decimal in quotes; [] if none."""
    try:
        number = float(text)
    except ValueError:
        return []
    return [int(number) if number.is_integer() else number] if math.isfinite(number) else []


def _range(interval: Interval) -> str:
    upper = None if interval.le == LARGEST else interval.le
    if interval.ge is not None and upper is not None:
        return f"in {interval.ge}..{upper}"
    bounds = {">=": interval.ge, ">": interval.gt, "<=": upper, "<": interval.lt}
    return " and ".join(f"{sign} {bound}" for sign, bound in bounds.items() if bound is not None)


def _key_of(location: Sequence[int | str], hints: Mapping[str, Any]) -> list[str]:
    """Returns the parts of the key in a pydantic location, which goes on into list items and members of a union."""
    parts: list[str] = []
    for part in location:
        if dotted([*parts, str(part)]) not in hints:
            break
        parts.append(str(part))
    return parts


def _value_at(raw: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        raw = raw[part]
    return raw


def _members(hint: Any) -> tuple:
    """Returns the members of a union without None (which TOML cannot write), or what `Annotated` annotates."""
    members = typing.get_args(hint) if _is_union(hint) else typing.get_args(hint)[:1]
    return tuple(member for member in members if member is not type(None))


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _is_table(hint: Any) -> bool:
    """Returns whether an annotation is that of a table of known keys, a class of the schema."""
    return isinstance(hint, type) and issubclass(hint, BaseModel)


def is_free(hint: Any) -> bool:
    """Returns whether an annotation is FreeTable or a union of it: a table whose keys the schema doesn't know."""
    return FreeTable in (_members(hint) if _is_union(hint) else (hint,))
