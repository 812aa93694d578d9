"""The command `python -m cil_func diff A B`: what differs between two configurations or runs, and what it is worth."""

import argparse
import json
import os
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cil_func import config as configuration
from cil_func.config import Config
from cil_func.config.messages import shown
from cil_func.config.parser import Parser
from cil_func.errors import CilError, ConfigError, printable
from cil_func.report import published
from cil_func.runs import output
from cil_func.studies import published_rows
from cil_func.studies.differences import differences

NAME = "diff"
_WIDTH = 100  # characters of a line
_MEASURED = ("average_incremental_accuracy", "last_accuracy", "forgetting")


class Side(NamedTuple):
    """One of the two that are compared.

    name: as the command gives it. config: its configuration. results: the content of results.json if it is a run that
    has one, the numbers of a published row, else {}. kind: what it is.
    """

    name: str
    config: Config
    results: dict[str, Any]
    kind: Literal["run", "configuration", "published row"]


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns its exit status: 0, or 2 for a wrong flag and what is neither configuration nor run.

    arguments: the flags, without the program's name; None: those of this process.
    """
    parser = Parser(prog="python -m cil_func diff", description=__doc__, allow_abbrev=False)
    for name in ("a", "b"):
        parser.add_argument(
            name, metavar=name.upper(), help="a preset, a TOML file, a run directory or a published row"
        )
    parser.add_argument("--json", action="store_true", help="print JSON")
    try:
        options: argparse.Namespace = parser.parse_args(arguments)
        found = compare(read(options.a), read(options.b))
    except CilError as error:
        output.tell(f"{NAME}: {error}")
        return error.exit_status
    text = json.dumps(found, indent=2, ensure_ascii=False) if options.json else "\n".join(lines(found))
    output.show(text)
    return 0


def read(name: str) -> Side:
    """Returns the Side of a preset's name, a TOML file, a run directory, or a published row (see reproduce.md).

    A folder that is called like a preset, and is no run, doesn't hide it. Raises ConfigError, one line.
    """
    directory = Path(os.path.expanduser(name))
    if directory.is_dir() and any((directory / file).exists() for file in ("config.toml", "results.json")):
        return _read_run(name, directory)
    if any(row.name == name for row in published.every()) and not directory.exists():
        row = published_rows.find(name)
        results = {"average_incremental_accuracy": row.average, "last_accuracy": row.last}
        return Side(name, published_rows.config_of(row), results, "published row")
    try:
        return Side(name, configuration.load(name), {}, "configuration")
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix("--config ")) from None


def _read_run(name: str, directory: Path) -> Side:
    """Returns the Side of a run directory: config.toml, or without one the configuration in results.json."""
    results: dict[str, Any] = {}
    try:
        if (directory / "results.json").exists():
            results = _checked(json.loads((directory / "results.json").read_text(encoding="utf-8")))
        if (directory / "config.toml").exists():
            return Side(name, configuration.of_run(directory), results, "run")
        return Side(name, configuration.from_dict(results["config"]), results, "run")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{directory}: results.json can't be used ({error}); put it back from a copy") from error


def _checked(results: Any) -> dict[str, Any]:
    """Returns the content of results.json. Raises TypeError if something that `compare` needs is of another type."""
    if not isinstance(results, dict):
        raise TypeError(f"it holds {shown(results)}")
    rows, config = results.get("phases") or [], results.get("config", {})
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TypeError(f"phases: {shown(rows)}")
    if not isinstance(config, dict):
        raise TypeError(f"config: {shown(config)}")
    numbers = {key: results.get(key) for key in (*_MEASURED, "num_classes")}
    for key, value in (*numbers.items(), *(("classes_seen", row.get("classes_seen")) for row in rows)):
        if value is not None and not isinstance(value, (int, float)):
            raise TypeError(f"{key}: {shown(value)}")
    return results


def compare(a: Side, b: Side) -> dict[str, Any]:
    """Returns what the command prints with --json: "a", "b", "differences" (see `differences`) and "measured".

    a, b: of each its name, "is", see `Side.kind`, and "partial": of a run that has not learned all classes, how many it
    has, in words, else ""; a run without results is a configuration. measured: {measure:
    [A's, B's]} if both have results, else {}; "same_images" is None unless both are runs that name the fingerprint of
    their images.
    """
    both = a.results and b.results
    prints = [side.results.get("data_fingerprint") for side in (a, b)]
    return {
        **{
            key: {
                "name": side.name, "is": side.kind if side.results else "configuration", "partial": _partial(side),
            }
            for key, side in (("a", a), ("b", b))
        },
        "differences": differences(a.config, b.config),
        "measured": {key: [side.results.get(key) for side in (a, b)] for key in _MEASURED} if both else {},
        "same_images": prints[0] == prints[1] if all(prints) else None,
    }


def _partial(side: Side) -> str:
    phases, classes = side.results.get("phases") or [{}], side.results.get("num_classes")
    seen = phases[-1].get("classes_seen")
    return f"after {len(phases)} phases, {seen} of {classes} classes" if seen and classes and seen < classes else ""


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines of the text: the keys that have an effect, then those that have none. found: from `compare`."""
    yield printable(f"A  {found['a']['name']}")
    yield printable(f"B  {found['b']['name']}")
    every = found["differences"]
    used = [each for each in every if each["used_by"]]
    for each in used:
        yield ""
        yield from _entry(each)
    if not used:
        yield from ("", "no key that has an effect differs")
    if unused := [each for each in every if not each["used_by"]]:
        yield from ("", "These differ too, and have no effect in either:")
        yield from (_values(each) for each in unused)
    if found["measured"]:
        notes = ["on other images"] if found["same_images"] is False else []
        notes += [f"{side.upper()} {found[side]['partial']}" for side in "ab" if found[side]["partial"]]
        yield from ("", ", ".join(["measured (percent, A and B)", *notes]))
        for key, (first, second) in found["measured"].items():
            yield f"  {key:<28}  {_number(first)}  {_number(second)}"


def _entry(each: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines of one key that has an effect in A or B: the values, its meaning, what is known."""
    yield _values(each)
    yield from textwrap.wrap(each["meaning"], _WIDTH, initial_indent="    ", subsequent_indent="    ")
    if len(each["used_by"]) == 1:
        yield f"    It has an effect in {each['used_by'][0].upper()} alone."
    for known in each["worth"]:
        text = f"Worth: {known['text']} [{', '.join(known['source'])}]"
        yield from textwrap.wrap(
            text,
            _WIDTH,
            initial_indent="    ",
            subsequent_indent="      ",
            break_long_words=False,
            break_on_hyphens=False,
        )


def _values(each: Mapping[str, Any]) -> str:
    """Returns "  key: A's value -> B's value"."""
    unset = "as in [optim]" if each["key"].startswith("optim.first_phase.") else "not set"
    first, second = (unset if each[side] is None else shown(each[side]) for side in "ab")
    return printable(f"  {each['key']}: {first} -> {second}")


def _number(value: float | None) -> str:
    return f"{'-' if value is None else format(value, '.1f'):>6}"
