"""The published numbers that a run can be compared with, and the protocols that they belong to (published.toml)."""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from cil_func.report.axes import Results, phase_sizes


class Published(NamedTuple):
    """A published result. average, last: top-1 in percent, None if unknown.

    uncertain: whether the numbers were read off with less certainty than the source's others. source: where they stand.
    """

    method: str
    average: float | None
    last: float | None
    uncertain: bool
    source: str


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
    of the protocol; a method without a memory needs no exemplars. The training's recipe may differ.
    """
    with_memory = any(row.get("memory_size") for row in results["phases"])
    return protocol(results.get("config") or {}, phase_sizes(results), with_memory=with_memory)


def protocol(config: Mapping[str, Any], sizes: Sequence[int], *, with_memory: bool) -> str | None:
    """Returns the name of the published protocol of a configuration; None if it follows none. See `protocol_of`.

    config: {table: {key: value}}. sizes: how many classes each phase brings. with_memory: whether exemplars are kept.
    """
    for key, value in _COMMON.items():
        table, _, name = key.partition(".")
        if (with_memory or table != "memory") and (config.get(table) or {}).get(name) != value:
            return None
    return next((name for name, published in _content()["protocols"].items() if published == list(sizes)), None)


def rows(protocol: str) -> list[Published]:
    """Returns the published results of a protocol, the best average first, those without one last."""
    content = _content()
    found = [
        Published(
            method,
            row.get("average"),
            row.get("last"),
            row.get("uncertain", False),
            content["sources"][row["source"]]["text"],
        )
        for method, row in content["rows"][protocol].items()
    ]
    return sorted(found, key=lambda row: (row.average is None, -(row.average or 0), -(row.last or 0)))


def of_method(protocol: str | None, method: str) -> Published | None:
    """Returns the published result of a method by a protocol; None if there is none, or no protocol."""
    return next((row for row in rows(protocol) if row.method == method), None) if protocol else None


@cache
def _content() -> Mapping[str, Any]:
    return tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
