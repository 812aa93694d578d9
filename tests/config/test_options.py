"""Options of a function: made into its keywords, checked by its annotations and defaults."""

from __future__ import annotations

import enum
from collections.abc import Sequence  # noqa: F401
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional  # noqa: F401

import pytest
from annotated_types import Gt, Interval  # noqa: F401
from pydantic import AfterValidator, Field  # noqa: F401

from cil_func import config
from cil_func.config import options
from cil_func.errors import ConfigError

if TYPE_CHECKING:
    from nowhere import Missing  # noqa: F401

Positive = Annotated[float, Interval(gt=0)]


class Shape(enum.Enum):
    ROUND = "round"


def even(value: int) -> int:
    if value % 2:
        raise ValueError("it has to be even")
    return value


def make(options, *, tau: Positive = 1.0, kind: Literal["a", "b"] = "a", depth: int, free=None):
    return tau, kind, depth, free


def given(function, table):
    return options.arguments(function, table, key="method.options", given=("options",))


def refused(function, table):
    with pytest.raises(ConfigError) as failure:
        given(function, table)
    assert str(failure.value).isprintable()
    return str(failure.value)


def test_options_become_keywords():
    assert make(None, **given(make, {"tau": 2, "depth": 3})) == (2.0, "a", 3, None)
    assert make(None, **given(make, {"depth": 3, "free": [1, {"a": "b"}]})) == (1.0, "a", 3, [1, {"a": "b"}])


def test_the_table_of_a_configuration_comes_as_lists_and_dicts():
    table = config.load("digits", ["method.options={depth=1, free=[1, {a=[2]}]}"]).method.options
    assert given(make, table) == {"depth": 1, "free": [1, {"a": [2]}]}
    assert given(lambda **rest: rest, table) == {"depth": 1, "free": [1, {"a": [2]}]}


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({}, "method.options.depth: missing; make needs it"),
        ({"depth": 1, "tua": 1.0}, "method.options.tua: unknown option; did you mean method.options.tau?"),
        ({"depth": 1, "xyz": 1.0}, "method.options.xyz: unknown option; make takes tau, kind, depth, free"),
        ({"depth": 1, "tau": "x"}, 'method.options.tau: "x" is not allowed; a number > 0'),
        ({"depth": 1, "tau": -1.0}, "method.options.tau: -1.0 is not allowed; a number > 0"),
        ({"depth": 1, "kind": "c"}, 'method.options.kind: "c" is not allowed; one of "a", "b"'),
        ({"depth": True}, "method.options.depth: true is not allowed; an integer"),
        ({"depth": 1.0}, "method.options.depth: 1.0 is not allowed; an integer"),
        ({"depth": "1"}, 'method.options.depth: "1" is not allowed; an integer'),
        ({"depth": 1, "options": 1}, "method.options.options: unknown option"),
        ({"depth": 1.5, "kind": 3}, "method.options.depth: 1.5 is not allowed; an integer; and 1 more mistake"),
    ],
)
def test_options_are_checked_by_the_annotations(table, says):
    assert refused(make, table).startswith(says)


def test_each_annotation_takes_what_it_says():
    """Strings here, for annotations of this file are postponed."""
    fine = [
        (lambda x: x, 1, 1), (typed("int"), 3, 3), (typed("float"), 3, 3.0), (typed("bool"), True, True),
        (typed("str"), "s", "s"), (typed("Optional[int]"), 3, 3), (typed("int | None"), 3, 3),
        (typed("list[int]"), [1, 2], [1, 2]), (typed("tuple[int, ...]"), [1, 2], (1, 2)),
        (typed("tuple[float, float]"), [1, 2.5], (1.0, 2.5)), (typed("Sequence[str]"), ["a"], ["a"]),
        (typed("set[int]"), [1, 1], {1}), (typed("dict[str, int]"), {"a": 1}, {"a": 1}),
        (typed("Path"), "a/b", Path("a/b")), (typed("Shape"), "round", Shape.ROUND),
        (typed("Literal[1, 'auto']"), "auto", "auto"), (typed("Missing"), [1], [1]), (typed("Optional['int']"), 3, 3),
        (typed("Annotated[int, Field(gt=2)]"), 3, 3), (typed("'int'"), 3, 3),
    ]  # fmt: skip
    for function, value, expected in fine:
        found = given(function, {"x": value})["x"]
        assert found == expected and type(found) is type(expected), function.__annotations__


@pytest.mark.parametrize(
    ("annotation", "value", "says"),
    [
        ("list[int]", "abc", "it should be a valid"),
        ("list[int]", [1, "a"], "[1] it should be a valid integer"),
        ("list[int]", [1, 2.0], "[1] it should be a valid integer"),
        ("tuple[float, float]", [1.0, 2.0, 3.0], "at most 2 items"),
        ("Optional[int]", "x", "an integer"),
        ("bool", 1, "true or false"),
        ("str", 3, "a string in quotes"),
        ("Annotated[int, Field(gt=2)]", 2, "it should be greater than 2"),
        ("Annotated[int, Gt(2)]", 2, "it should be greater than 2"),
        ("Annotated[int, AfterValidator(even)]", 3, "it has to be even"),
        ("Shape", "square", "it should be 'round'"),
        ("Marker", 3, "TOML has no value of Marker"),
    ],
)
def test_each_annotation_refuses_the_rest(annotation, value, says):
    line = refused(typed(annotation), {"x": value})
    assert line.startswith("method.options.x: ") and says in line.partition(" is not allowed; ")[2], line


class Marker:
    """A class that TOML has no value of."""


def typed(annotation):
    """A function whose parameter x has this annotation, a string."""

    def function(*, x=None):
        return x

    function.__annotations__ = {"x": annotation}
    return function


def test_a_default_says_the_type_where_no_annotation_does():
    def function(*, flag=True, count=3, rate=0.5, word="a", anything=(1, 2), none=None): ...

    table = {"flag": False, "count": 0.5, "rate": 1, "word": "b", "anything": "c", "none": 3}
    assert given(function, table) == table
    for name, value, kind in (("count", 2, int), ("count", 0.5, float), ("rate", 2, float)):
        found = given(function, {name: value})[name]
        assert (found, type(found)) == (value, kind)  # range(count) takes no 2.0
    for name, wrong in (("flag", 1), ("count", "x"), ("count", True), ("rate", "0.5"), ("word", 3)):
        assert refused(function, {name: wrong}).startswith(f"method.options.{name}: ")


def test_a_function_that_takes_everything_is_given_everything_but_what_the_caller_gives():
    def function(options, *more, tau: int = 1, **rest): ...

    assert given(function, {"tau": 2, "x": [1]}) == {"tau": 2, "x": [1]}
    assert "method.options.tau: " in refused(function, {"tau": "2"})
    assert "unknown option" in refused(function, {"options": 1})


def test_classes_partials_callables_and_decorated_functions_are_read_as_well():
    @dataclass
    class Data:
        tau: int = 1

    class Plain:
        def __init__(self, tau: int = 1): ...

    class Called:
        def __call__(self, tau: int = 1): ...

    @wraps(make)
    def around(*arguments, **keywords): ...

    for function in (Data, Plain, Called(), partial(make, depth=1), around):
        assert "method.options.tau: " in refused(function, {"tau": "x", "depth": 1}), function
        assert given(function, {"tau": 2} | ({"depth": 1} if function is around else {}))["tau"] == 2


def test_what_tells_nothing_of_its_parameters_takes_everything():
    assert options.arguments(dict, {"a": 1}, key="data.options") == {"a": 1}
    assert options.arguments(lambda **more: more, {"x": 1}, key="data.options") == {"x": 1}
    with pytest.raises(ConfigError, match=r"data\.options\.x: unknown option; <lambda> takes none"):
        options.arguments(lambda: None, {"x": 1}, key="data.options")
