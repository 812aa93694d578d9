"""The published numbers that a run can be compared with, and the protocols that they belong to (published.toml)."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from cil_func.report.axes import Results, phase_sizes

_COMPARED = "resnet32"  # the group that a run on CIFAR-100 is compared with


class Group(NamedTuple):
    """Published rows that share data, backbone, memory and augmentation.

    name: by which published.toml calls it. text: what they share. settings: what their configuration sets in its
    preset. closed: why none trains them, "" if one does. differs: what differs from the published code whatever the
    configuration is.
    """

    name: str
    text: str
    settings: tuple[str, ...]
    closed: str
    differs: tuple[str, ...]


class Published(NamedTuple):
    """A published result.

    average, last: top-1 in percent, None if unknown. uncertain: whether the numbers are known with less certainty than
    the source's others. source: where they stand. within: how far a number may be off, in points, since it was read off
    a figure; 0: it was printed. name: "wa-b50-10". protocol: "B50 inc 10". group: what it shares with others. recipe:
    how it was trained, in words, "" if nothing is known. preset: that of the configuration that trains it, "" if none
    does. settings: what its own recipe sets, beside the group's. differs: see `Group`, for this method.
    """

    method: str
    average: float | None
    last: float | None
    uncertain: bool
    source: str
    within: float
    name: str
    protocol: str
    group: Group
    recipe: str
    preset: str
    settings: tuple[str, ...]
    differs: tuple[str, ...]


# Besides the phases' sizes, what a run has to have in common with the published ones: {dotted key: value}.
_COMMON = {
    "data.name": "cifar100",
    "data.class_order": "canonical",
    "model.backbone": "resnet32",
    "memory.size": 2000,
    "memory.fixed_per_class": 0,
}


def protocol_of(results: Results) -> str | None:
    """Returns the name of the published protocol that a finished run follows, such as "B50 inc 10"; None if none.

    results: the content of results.json. Data, class order, phases, backbone and number of exemplars have to be those
    of the protocol, and the measured images the test images; a method without a memory needs no exemplars. The
    training's recipe may differ.
    """
    with_memory = any(row.get("memory_size") for row in results["phases"])
    return protocol(results.get("config") or {}, phase_sizes(results), with_memory=with_memory)


def protocol(config: Mapping[str, Any], sizes: Sequence[int], *, with_memory: bool) -> str | None:
    """Returns the name of the published protocol of a configuration; None if it follows none. See `protocol_of`.

    config: {table: {key: value}}. sizes: how many classes each phase brings. with_memory: whether exemplars are kept.
    """
    if (config.get("data") or {}).get("tests_on", "test") != "test":  # older results have no such key
        return None
    for key, value in _COMMON.items():
        table, _, name = key.partition(".")
        if (with_memory or table != "memory") and (config.get(table) or {}).get(name) != value:
            return None
    return next((name for name in _content()["rows"][_COMPARED] if sizes_of(name) == list(sizes)), None)


def sizes_of(protocol: str, num_classes: int = 100) -> list[int]:
    """Returns how many classes each phase of a protocol brings. protocol: "B50 inc 10", "B0 inc 20" and so on."""
    first, increment = increments_of(protocol)
    return [first or increment, *[increment] * ((num_classes - (first or increment)) // increment)]


def increments_of(protocol: str) -> tuple[int, int]:
    """Returns (data.initial_increment, data.increment) of a protocol: (50, 10) for "B50 inc 10"."""
    first, increment = map(int, re.findall(r"\d+", protocol))
    return first, increment


def rows(protocol: str) -> list[Published]:
    """Returns the published results on CIFAR-100 of a protocol, the best average first, those without one last."""
    found = [row for row in every() if row.group.name == _COMPARED and row.protocol == protocol]
    return sorted(found, key=lambda row: (row.average is None, -(row.average or 0), -(row.last or 0)))


def of_method(protocol: str | None, method: str) -> Published | None:
    """Returns the published result of a method by a protocol; None if there is none, or no protocol."""
    return next((row for row in rows(protocol) if row.method == method), None) if protocol else None


@cache
def every() -> tuple[Published, ...]:
    """Returns all published results, group after group, as published.toml has them."""
    content = _content()
    return tuple(
        _row(content, _group(content, group), protocol, key, row)
        for group, protocols in content["rows"].items()
        for protocol, found in protocols.items()
        for key, row in found.items()
    )


def _row(content: Mapping[str, Any], group: Group, protocol: str, key: str, row: Mapping[str, Any]) -> Published:
    """Returns an entry of published.toml's rows. key: under which it stands."""
    source, uncertain = content["sources"][row["source"]], row.get("uncertain", False)
    method, entry = row.get("method", key), content["groups"][group.name]
    own = entry.get("methods", {}).get(key, {})
    first, increment = increments_of(protocol)
    return Published(
        method=method,
        average=row.get("average"),
        last=row.get("last"),
        uncertain=uncertain,
        source=source["text"],
        within=source.get("rough" if uncertain else "within", 0.0),
        name=f"{key.replace('_', '-')}-b{first}-{increment}{entry['suffix']}",
        protocol=protocol,
        group=group,
        recipe=own.get("recipe", ""),
        preset=own.get("preset", entry.get("preset", "")),
        settings=(*own.get("set", ()), *row.get("set", ())),
        differs=tuple(own.get("differs", ())),
    )


def _group(content: Mapping[str, Any], name: str) -> Group:
    entry = content["groups"][name]
    return Group(
        name,
        entry["text"],
        tuple(entry.get("set", ())),
        entry.get("closed", ""),
        tuple(entry.get("differs", ())),
    )


@cache
def _content() -> Mapping[str, Any]:
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
