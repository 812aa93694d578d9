"""A configuration as one flat table of dotted keys."""

from collections.abc import Iterator, Mapping
from typing import Any

from cil_func.config.load import to_dict
from cil_func.config.schema import Config


def flat(config: Config) -> dict[str, Any]:
    """Returns {dotted key: value} of a whole configuration, defaults included, in types that TOML and JSON have.

    Keys of [optim.first_phase] and [optim.STAGE] that aren't set are left out, and so are empty tables of options.
    """
    return dict(_flat(to_dict(config)))


def _flat(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of all keys in nested tables. prefix: put before each key, like "optim."."""
    for key, value in tables.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
