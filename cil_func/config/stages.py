"""[optim.STAGE]: the tables of a method's stages, whose names the schema doesn't know."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cil_func.config import messages
from cil_func.config.schema import Config, Optim, PartOfOptim

_SLIP = 0.8  # likeness (difflib) from which a name is taken for a misspelt key of [optim]
_HINTS = messages.hints_of(Config)


def is_stage(parts: Sequence[str]) -> bool:
    """Returns whether the parts of a dotted key begin with the name of a stage's table: ["optim", "bias", "epochs"].

    Any lowercase name counts, known to a method or not, except one that looks like a slip of a key of [optim]:
    [optim.first_phas].
    """
    if len(parts) < 2 or parts[0] != "optim" or not re.fullmatch("[a-z][a-z0-9_]*", parts[1]):
        return False
    return not difflib.get_close_matches(parts[1], Optim.model_fields, n=1, cutoff=_SLIP)


def hints(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {dotted key: its annotation} for the stages' tables in a configuration and all keys that they may have.

    tables: {table: {key: value}}, not checked yet. `messages.hints_of` returns the same for the keys of the schema.
    """
    optim = tables.get("optim")
    found: dict[str, Any] = {}
    for name in optim if isinstance(optim, Mapping) else ():
        if is_stage(["optim", name]):
            found[f"optim.{name}"] = PartOfOptim
            found |= messages.hints_of(PartOfOptim, f"optim.{name}.")
    return found


def without_unknown(tables: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """Returns (the tables, messages): what is neither a key of [optim] nor a stage's table is left out of [optim].

    tables: {table: {key: value}}, not checked yet. messages: one for each key that is left out.
    """
    optim = tables.get("optim")
    if not isinstance(optim, Mapping):
        return tables, []
    known = {
        key: value for key, value in optim.items()
        if key in Optim.model_fields or (is_stage(["optim", key]) and isinstance(value, Mapping))
    }  # fmt: skip
    unknown = [messages.unknown_key(["optim", key], _HINTS) for key in optim if key not in known]
    return {**tables, "optim": known}, unknown
