"""Finds what can't be in the record of a method of a user's own: a slip would train something else, without a word."""

import typing
from collections.abc import Callable
from dataclasses import fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any

import numpy as np

from cil_func.config import messages, stages
from cil_func.methods.base import Method, Replay, Stage
from cil_func.methods.checks import shown

_RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {  # fields of the three records, by name
    "clamp": (lambda value: value >= 0, "0, no limit, or more"),
    "views": (lambda value: value >= 1, "1 or more"),
    "hold_out": (lambda value: 0 <= value < 1, "0 to below 1"),
    "groups": (lambda value: value == "phases" or value >= 1, '1 or more, or "phases",'),
    "images": (lambda value: value >= 0, "0, as many as a batch, or more"),
}


def mistake_in(method: Method) -> str:
    """Returns what is wrong in the fields of a method and of its stages, one line; "" if nothing."""
    fault = _of_fields(method, "")
    for stage in method.stages if not fault else ():
        fault = fault or _of_fields(stage, f"stage {stage.name!r}: ")
    return fault


def mistake_in_training(method: Method) -> str:
    """Returns why a method whose fields are right can't be trained: names of its stages, images that it takes.

    One line; "" if it can. A finished run predicts whatever this says.
    """
    names = [stage.name for stage in method.stages]
    for name in names:
        if not name:
            return "a stage has no name, which [optim.NAME] and results need"
        if not stages.is_stage(["optim", name]):
            fits = "lowercase letters, digits and _ fit, a letter first, and nothing like a key of [optim]"
            return f"stage {name!r}: no table [optim.{name}] can be; {fits}"
        if names.count(name) > 1:
            return f"two stages are called {name!r}; each needs a name of its own"
    return _of_images(method)


def _of_images(method: Method) -> str:
    """Returns why a method can't train on the images that it says: exemplars that aren't kept, images held out."""
    for stage in (method.main, *method.stages):
        where = f"stage {stage.name!r}: " if stage.name else ""
        if stage.replay and not method.uses_memory:
            return f"{where}replay has exemplars beside each batch, and none are kept; uses_memory=True fits"
        if method.hold_out and stage.replay:
            return f"hold_out keeps images from training, and {where}replay has exemplars among them; no replay fits"
        if method.hold_out and stage.rows not in ("new", "held_out"):
            fits = '"new" and "held_out" fit' if stage.name else '"new" fits'
            has = f'rows = "{stage.rows}" has them'
            return f"hold_out keeps images from training, and {where}{has}; {fits}"
    return ""


def _of_fields(record: Method | Stage | Replay, where: str) -> str:
    """Returns the first field whose value its annotation or range doesn't take. where: put before the field's name."""
    base = next(kind for kind in (Method, Stage, Replay) if isinstance(record, kind))  # it may be a subclass
    hints = typing.get_type_hints(base)
    for field in fields(base):
        value = getattr(record, field.name)
        if not _takes(hints[field.name], value):
            return f"{where}{field.name} is {shown(value)}; {_allowed(hints[field.name])} fits"
        in_range, fits = _RANGES.get(field.name, (lambda value: True, ""))
        if not in_range(value):
            return f"{where}{field.name} is {shown(value)}; {fits} fits"
        if isinstance(value, Replay) and (fault := _of_fields(value, f"{where}{field.name}.")):
            return fault
    return ""


def _takes(hint: Any, value: Any) -> bool:
    """Returns whether a value is of an annotation's type; a function is not called."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return any(_takes(member, value) for member in members)
    if origin is typing.Literal:
        return value in members and type(value) in map(type, members)
    if origin is tuple:
        return isinstance(value, (tuple, list)) and all(_takes(members[0], each) for each in value)
    if getattr(hint, "_is_protocol", False):
        return callable(value)
    if hint in (int, float):  # NumPy's too
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    return isinstance(value, (bool, np.bool_) if hint is bool else origin or hint)


def _allowed(hint: Any) -> str:
    """Returns in words what an annotation takes."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return " or ".join(_allowed(member) for member in members)
    if messages.is_plain(hint):
        return messages.allowed(hint)
    if origin is tuple:
        return f"a tuple of {members[0].__name__}s"
    if getattr(hint, "_is_protocol", False):
        return "a function"
    if hint is NoneType:
        return "None"
    return f"a {(origin or hint).__name__}"
