"""A table of keys that the schema doesn't know, like [method.options]."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError, core_schema

LARGEST = 2**63 - 1  # TOML's largest integer; as an upper bound it goes without saying


class FreeTable(Mapping[str, Any]):
    """A table of TOML whose keys the schema doesn't know. It can't be changed and can be hashed.

    items: {key: value}; None: an empty table. Values are strings, booleans, integers of 64 bits, finite numbers, lists
    and tables of these. Lists become tuples, tables FreeTables. pydantic checks the values when it reads a
    configuration; the constructor doesn't.
    """

    def __init__(self, items: Mapping[str, Any] | None = None):
        self._items = {key: _frozen(value) for key, value in (items or {}).items()}

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return f"FreeTable({self._items!r})"

    def plain(self) -> dict[str, Any]:
        """Returns a new dict of the same content, with lists for tuples and dicts for FreeTables."""
        return {key: _thawed(value) for key, value in self._items.items()}

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        serialization = core_schema.plain_serializer_function_ser_schema(cls.plain)
        return core_schema.no_info_plain_validator_function(cls._validated, serialization=serialization)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict:
        return {"type": "object", "propertyNames": {"pattern": r"^[^\W\d]\w*$"}}

    @classmethod
    def _validated(cls, value: Any) -> "FreeTable":
        """Returns the value as a FreeTable, for pydantic. The ValidationError names each option that is wrong."""
        if not isinstance(value, Mapping):
            raise ValueError("no table")
        wrong = [key for key, one in value.items() if not key.isidentifier() or not _is_toml(one)]
        if wrong:
            error = PydanticCustomError("option", "not an option")
            details = [InitErrorDetails(type=error, loc=(key,), input=value[key]) for key in wrong]
            raise ValidationError.from_exception_data("options", details)
        return cls(value)


def _is_toml(value: Any) -> bool:
    """Returns whether JSON can hold a value of TOML unchanged: no date, no NaN, no integer beyond 64 bits."""
    if isinstance(value, list | tuple):
        return all(map(_is_toml, value))
    if isinstance(value, Mapping):
        return all(map(_is_toml, value.values()))
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str | bool) or (isinstance(value, int) and -LARGEST - 1 <= value <= LARGEST)


def _frozen(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    return FreeTable(value) if isinstance(value, Mapping) else value


def _thawed(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(map(_thawed, value))
    return value.plain() if isinstance(value, FreeTable) else value
