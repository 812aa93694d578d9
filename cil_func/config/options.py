"""Checks the options of a function, the keys of a table like [method.options], against the function's own signature."""

import inspect
import json
import typing
from collections.abc import Callable, Collection, Mapping
from types import SimpleNamespace
from typing import Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from cil_func.config import messages
from cil_func.config.free_table import FreeTable
from cil_func.config.messages import shown


def parameters(function: Callable) -> dict[str, inspect.Parameter]:
    """Returns {name: parameter} of a function, a class or another callable; *args and **keywords are left out.

    String annotations are evaluated; a parameter whose annotation can't be evaluated is returned without one. {} for a
    function written in C that has no signature.
    """
    try:
        found = inspect.signature(function).parameters
    except (ValueError, TypeError):  # a function written in C has no signature
        return {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: _evaluated(each, function) for name, each in found.items() if each.kind in named}


def arguments(
    function: Callable, options: Mapping[str, Any], *, key: str, given: Collection[str] = (), name: str = ""
) -> dict[str, Any]:
    """Checks options against a function's parameters. Returns them as keywords to call it with: {name: value}.

    options: values as TOML has them, or a FreeTable. key: of their table, "method.options", for messages.
    given: parameters that the caller fills itself, which are no options. name: what messages call the function; "": its
    own name.

    A value has to be of the type that its parameter is annotated with, and is made into it where TOML has no such type
    (a list into a tuple, a string into a Path). Without annotation, a default that is true or false, a number or a
    string says which type: beside a default of 0.5, 2 becomes 2.0; beside one of 3, 2 and 0.5 stay as they are.
    Without either, or where the function takes **keywords, anything is taken.
    Raises ConfigError, one line, for an unknown option, a wrong type or value, or a missing option.
    """
    known = {name: each for name, each in parameters(function).items() if name not in given}
    options, name = options.plain() if isinstance(options, FreeTable) else options, name or _name(function)
    found, mistakes = {}, []
    for option, value in options.items():
        if option in known:
            try:
                found[option] = _checked(value, _hint(known[option]))
            except ValidationError as failure:
                fits = _fits(_hint(known[option]), failure)
                mistakes.append(f"{key}.{option}: {shown(value)} is not allowed; {fits}")
        elif takes_any(function) and option not in given:
            found[option] = json.loads(json.dumps(value))
        else:
            mistakes.append(f"{key}.{option}: unknown option; {_meant(option, known, given, key, name)}")
    missing = [each for each, one in known.items() if one.default is one.empty and each not in options]
    own = f", beside {', '.join(given)}, which it is given" if given else ""
    mistakes += [f"{key}.{each}: missing; {name} needs it{own}" for each in missing]
    if mistakes:
        raise messages.first_of(mistakes)
    return found


def takes_any(function: Callable) -> bool:
    """Returns whether a function has a parameter **keywords, or doesn't say what it takes."""
    return any(each.kind is each.VAR_KEYWORD for each in _signature(function))


def _signature(function: Callable) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        return [inspect.Parameter("keywords", inspect.Parameter.VAR_KEYWORD)]


def _evaluated(parameter: inspect.Parameter, function: Callable) -> inspect.Parameter:
    """Returns the parameter with its string annotations evaluated, or without annotation if that fails."""
    holder = function.__init__ if inspect.isclass(function) else inspect.unwrap(getattr(function, "func", function))
    holder = holder if inspect.isroutine(holder) else type(holder).__call__
    noted = SimpleNamespace(__annotations__={"it": parameter.annotation})
    try:
        hints = typing.get_type_hints(noted, getattr(holder, "__globals__", {}), include_extras=True)
    except Exception:  # a name that only type checkers import, for instance
        return parameter.replace(annotation=parameter.empty)
    return parameter.replace(annotation=hints["it"])


def _hint(parameter: inspect.Parameter) -> Any:
    """Returns the type that a parameter takes: its annotation, or what its default says; Any if neither says it."""
    if parameter.annotation is not parameter.empty:
        return parameter.annotation
    default = parameter.default
    if isinstance(default, bool):
        return bool
    if isinstance(default, float):
        return float  # 2 is 2.0 then
    if isinstance(default, int):
        return int | float  # a default of 1 doesn't mean that 0.5 is wrong, and an integer stays one
    return str if isinstance(default, str) else Any


def _checked(value: Any, hint: Any) -> Any:
    """Returns the value in the annotation's type. Raises pydantic's ValidationError if it doesn't fit.

    pydantic reads it as JSON, whose strict rules are TOML's: no number from a string, but a tuple from a list.
    """
    try:
        adapter = TypeAdapter(hint)
    except PydanticUserError:  # a class that pydantic doesn't know
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    return adapter.validate_json(json.dumps(value), strict=True)


def _fits(hint: Any, failure: ValidationError) -> str:
    """Returns what a parameter takes, in words: read off its annotation, or pydantic's if that has rules of its own.

    failure: pydantic's, about the value that was given.
    """
    if messages.is_plain(hint):
        return messages.allowed(hint)
    first = failure.errors(include_url=False, include_context=False)[0]
    if first["type"] in ("needs_python_object", "callable_type"):
        return f"TOML has no value of {getattr(hint, '__name__', hint)}"
    place = "".join(f"[{part}]" for part in first["loc"] if isinstance(part, int))
    text = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    return f"{place} {text}" if place else text


def _meant(option: str, known: Mapping[str, Any], given: Collection[str], key: str, name: str) -> str:
    """Returns what a person who wrote an unknown option may have meant, in words for the message.

    known: the function's options. given: parameters that the caller fills. key: of the table of options; name: of the
    function.
    """
    if option in given:
        return f"{key.removesuffix('options')}{option} sets it"
    close = messages.nearest(option, known)
    return f"did you mean {key}.{close}?" if close else f"{name} takes {', '.join(known) or 'none'}"


def _name(function: Callable) -> str:
    return getattr(function, "__qualname__", type(function).__name__).rpartition("<locals>.")[2]
