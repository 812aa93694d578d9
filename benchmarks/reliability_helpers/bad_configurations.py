"""Makes wrong configurations from the schema, with what `train.py` has to answer to each: exit status 2 and one line.

Each key is misspelt, given each wrong TOML type, a value just outside its range, and one that is not finite. So a new
key is covered without more work. What annotations can't tell (which text is a path or a policy) is tested in
`tests/config/test_load.py`.
"""

import math
import random
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Interval
from pydantic import BaseModel

from cil_func.config import messages
from cil_func.config.schema import Config

# TOML's types, a value of each; text that another type could have been meant by is the likeliest mistake.
TOML = {
    "string": ['"3"', '"1.5"', '"true"', '""'],
    "integer": ["3", "-7"],
    "float": ["1.5", "-2e3"],
    "boolean": ["true", "false"],
    "datetime": ["1979-05-27T07:32:00Z", "1979-05-27", "07:32:00"],
    "array": ["[]", "[[]]", '["a", "b"]'],
    "table": ["{}", "{ a = 1 }"],
}
_NAMES = {bool: {"boolean"}, int: {"integer"}, float: {"integer", "float"}, str: {"string"}, tuple: {"array"}}


class BadConfig(NamedTuple):
    """A wrong configuration.

    key: its dotted key; kind: of the mistake; text: a line of TOML like `optim.epochs = 0`; says: texts that the answer
    must contain. in_file: whether the line is given in a file by --config, and not by --set.
    """

    key: str
    kind: str
    text: str
    says: tuple[str, ...]
    in_file: bool

    def flags(self, folder: Path) -> list[str]:
        """Returns the flags for train.py. Writes a file into the folder if in_file is true."""
        if not self.in_file:
            return ["--set", self.text]
        path = folder / "bad.toml"
        path.write_text(self.text + "\n", encoding="utf-8")
        return ["--config", str(path)]


def configurations(seed: int = 0, *, schema: type[BaseModel] = Config) -> list[BadConfig]:
    """Returns all wrong configurations, in an order drawn from the seed, so that the first few are a fair sample."""
    draw = random.Random(seed)
    hints = messages.hints_of(schema)
    found = []
    for key, hint in hints.items():
        table = takes(hint) == {"table"}  # --set takes no whole table, right or wrong
        says = (f"{key}: ", " is not allowed; ")
        cases = [("misspelt", text, right) for text, right in _misspelt(key, hints, draw)]
        cases += [(kind, f"{key} = {value}", says) for kind, value in wrong(hint)]
        found += [BadConfig(key, *case, in_file=table or draw.random() < 0.5) for case in cases]
    draw.shuffle(found)
    return found


def fault(status: int, stderr: str, *, expected: int, says: Sequence[str]) -> str:
    """Returns what is wrong with the answer of a process that had to refuse something; "" for nothing.

    status, stderr: of the process. expected: the exit status that it should have. says: texts that its line must have.
    """
    lines = [line for line in stderr.split("\n") if line]
    if status != expected:
        return f"exit status {status}, not {expected}: {lines[-1] if lines else 'no message'}"
    if len(lines) != 1:
        return f"{len(lines)} lines on stderr, not one: {lines[:3]}"
    if not lines[0].startswith("train.py: ") or not lines[0].isprintable():
        return f"not a message of train.py: {lines[0]!r}"
    missing = [part for part in says if part not in lines[0]]
    return f"{missing[0]!r} is not in: {lines[0]}" if missing else ""


def wrong(hint: Any) -> Iterator[tuple[str, str]]:
    """Yields (kind of mistake, TOML value) for all values that are wrong for a key. hint: the key's annotation."""
    taken = takes(hint)
    for kind, values in TOML.items():
        if kind not in taken:
            yield from ((f"type {kind}", value) for value in values)
    for value in _outside(hint):
        yield "out of range", value
    for member in members(hint):
        if typing.get_origin(member) is Literal:
            yield from (("no such word", text) for text in ('"no such word"', '"-"'))
    if taken & {"integer", "float"}:
        yield from (("not finite", word) for word in ("nan", "inf", "-inf", "+nan"))
    items = [item for member in members(hint) for item in _items(member)]
    if items:  # three of them, since that is the length of some lists
        apart = [set(wrong(item)) for item in items]
        for kind, value in sorted(set.intersection(*apart)):
            yield f"in a list, {kind}", f"[{value}, {value}, {value}]"


def takes(hint: Any) -> set[str]:
    """Returns the TOML types that an annotation allows."""
    kinds: set[str] = set()
    for member in members(hint):
        if typing.get_origin(member) is Literal:
            kinds = kinds.union(*(_NAMES[type(value)] for value in typing.get_args(member)))
        elif messages.is_free(member) or (isinstance(member, type) and issubclass(member, BaseModel)):
            kinds.add("table")
        else:
            kinds |= _NAMES[typing.get_origin(member) or member]
    return kinds


def members(hint: Any) -> list[Any]:
    """Returns the alternatives of an annotation, without their Annotated notes, and without None: TOML has no None."""
    if typing.get_origin(hint) is Annotated:
        return members(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [one for member in typing.get_args(hint) for one in members(member)]
    return [] if hint is type(None) else [hint]


def _items(member: Any) -> list[Any]:
    return [typing.get_args(member)[0]] if typing.get_origin(member) is tuple else []


def _outside(hint: Any) -> list[str]:
    """Returns numbers next to each bound, on its wrong side, that no alternative of the annotation allows."""
    ranges = list(_ranges(hint))
    if not ranges:
        return []
    candidates: list[int | float] = []
    for base, interval in ranges:
        for bound, direction in ((interval.ge, -math.inf), (interval.le, math.inf)):
            if bound is not None:
                step = 1 if direction > 0 else -1
                candidates += [bound + step] + ([math.nextafter(bound, direction)] if base is float else [])
        candidates += [bound for bound in (interval.gt, interval.lt) if bound is not None]
        candidates += [interval.gt - 1] if interval.gt is not None else []
    return [repr(value) for value in dict.fromkeys(candidates) if not any(_within(value, r) for _, r in ranges)]


def _ranges(hint: Any) -> Iterator[tuple[type, Interval]]:
    """Yields (int or float, its range) of each alternative that has a range."""
    if typing.get_origin(hint) is Annotated:
        base, *notes = typing.get_args(hint)
        yield from ((base, note) for note in notes if isinstance(note, Interval))
        yield from _ranges(base)
    elif typing.get_origin(hint) in (typing.Union, types.UnionType):
        for member in typing.get_args(hint):
            yield from _ranges(member)


def _within(value: float, interval: Interval) -> bool:
    return (
        (interval.ge is None or value >= interval.ge)
        and (interval.gt is None or value > interval.gt)
        and (interval.le is None or value <= interval.le)
        and (interval.lt is None or value < interval.lt)
    )


def _misspelt(key: str, hints: dict[str, Any], draw: random.Random) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields (TOML line, texts that the answer must contain) for typos in a key; the right key must be suggested."""
    table, _, name = key.rpartition(".")
    prefix = f"{table}." if table else ""
    written = f"[{key}]" if takes(hints[key]) == {"table"} else key
    value = "{ }" if written != key else "1"
    for typo in typos(name, draw):
        if prefix + typo not in hints:
            yield f"{prefix}{typo} = {value}", (f"{prefix}{typo}: unknown ", f"did you mean {written}?")


def typos(name: str, draw: random.Random) -> list[str]:
    """Returns typos of a name: a letter lost, doubled or swapped with the next one, capitals, and "-" for "_"."""
    lost, twice, first = (draw.randrange(len(name) - (swap == 2)) for swap in range(3))
    swapped = name[:first] + name[first + 1] + name[first] + name[first + 2 :]
    made = [name[:lost] + name[lost + 1 :], name[:twice] + name[twice] + name[twice:], swapped, name.upper()]
    return sorted({*made, name.replace("_", "-")} - {name})
