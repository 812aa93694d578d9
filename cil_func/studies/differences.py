"""Which keys differ between two configurations, what each means, and what the difference is known to be worth."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from cil_func.config import Config, effects, explain
from cil_func.config.flat import flat
from cil_func.report import published
from cil_func.studies import published_rows

_WORTH = Path(__file__).with_name("worth.toml")


def differences(a: Config, b: Config) -> list[dict[str, Any]]:
    """Returns one entry for each key in which two configurations differ, in the schema's order, in types of JSON.

    key: dotted. a, b: the values; None: not set, which only a key of [optim.first_phase], of [optim.STAGE] or of
    options can be. meaning: what the key means. used_by: those of "a" and "b" in which the key has an effect. worth:
    a list of {"text", "source"}, what is known; [] if nothing is, or if the key has no effect in one of the two.
    """
    values = flat(a), flat(b)
    keys = [key for key in {**values[0], **values[1]} if values[0].get(key) != values[1].get(key)]
    return [_difference(key, (a, b), (values[0].get(key), values[1].get(key))) for key in _ordered(keys)]


def _difference(key: str, configs: tuple[Config, Config], values: tuple[Any, Any]) -> dict[str, Any]:
    """Returns the entry of one key. configs: a and b. values: of the key in them."""
    sides = zip("ab", configs, strict=True)
    used = [side for side, config in sides if effects.use_of(key).when(config, 0)]
    return {
        "key": key,
        "a": values[0],
        "b": values[1],
        "meaning": explain.meaning(key),
        "used_by": used,
        "worth": known_worth(key, *values) if len(used) == 2 else [],
    }


def known_worth(key: str, a: Any, b: Any) -> list[dict[str, Any]]:
    """Returns what a difference is known to be worth: {"text", "source"} for each entry of worth.toml that holds.

    key: dotted; one of [optim.first_phase] has no entries. a, b: the two values.
    """
    found = []
    for entry in _entries():
        if entry["key"] == key and (text := _text(entry, a, b)):
            found.append({"text": " ".join(text.split()), "source": list(entry["source"])})
    return found


@cache
def _entries() -> list[dict[str, Any]]:
    """Returns the entries of worth.toml, which describes their keys."""
    return tomllib.loads(_WORTH.read_text(encoding="utf-8"))["worth"]


def _text(entry: Mapping[str, Any], a: Any, b: Any) -> str:
    """Returns the text of an entry of worth.toml if it holds for the values a and b, else ""."""
    if "protocol" in entry:
        rows = [row for method in (a, b) if (row := published.of_method(entry["protocol"], method))]
        pair = [f"{row.method} {published_rows.numbers(row)}" for row in rows]
        return f"{entry['setting']}: {', '.join(pair)}" if len(pair) == 2 else ""
    if "one" in entry and (a in entry["one"]) == (b in entry["one"]):
        return ""
    if "both" in entry and not (a in entry["both"] and b in entry["both"]):
        return ""
    return entry["text"]


def _ordered(keys: list[str]) -> list[str]:
    """Returns keys in the order of the schema's; options and stages come after the keys of their table."""
    order = list(flat(Config()))
    tables = [key.partition(".")[0] for key in order]

    def place(key: str) -> tuple[int, int]:
        at = order.index(key) if key in order else len(order)
        return tables.index(key.partition(".")[0]), at

    return sorted(keys, key=place)
