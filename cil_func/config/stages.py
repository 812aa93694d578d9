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
    """Whether the parts of a dotted key begin with the name of a stage's table: ["optim", "bias", "epochs"].

    A name that looks like a slip of a key of [optim] is none: [optim.first_phas] isn't what it seems.
    """
    if len(parts) < 2 or parts[0] != "optim" or not re.fullmatch("[a-z][a-z0-9_]*", parts[1]):
        return False
    return not difflib.get_close_matches(parts[1], Optim.model_fields, n=1, cutoff=_SLIP)


def hints(tables: Mapping[str, Any]) -> dict[str, Any]:
    """{dotted key: its annotation} for the stages' tables of a configuration, as `messages.hints_of` has the others."""
    optim = tables.get("optim")
    found: dict[str, Any] = {}
    for name in optim if isinstance(optim, Mapping) else ():
        if is_stage(["optim", name]):
            found[f"optim.{name}"] = PartOfOptim
            found |= messages.hints_of(PartOfOptim, f"optim.{name}.")
    return found


def without_unknown(tables: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[str]]:
    """Returns the tables without what is neither a key of [optim] nor a stage's table, and a message for each."""
    optim = tables.get("optim")
    if not isinstance(optim, Mapping):
        return tables, []
    known = {
        key: value for key, value in optim.items()
        if key in Optim.model_fields or (is_stage(["optim", key]) and isinstance(value, Mapping))
    }  # fmt: skip
    unknown = [messages.unknown_key(["optim", key], _HINTS) for key in optim if key not in known]
    return {**tables, "optim": known}, unknown
