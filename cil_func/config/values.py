"""Defines the types of the keys' values: with a range, a pattern or a rule, and the words and example for a person."""

import re
from typing import Annotated, Any, Literal

from annotated_types import Interval
from pydantic import AfterValidator, BeforeValidator, Field

from cil_func.config import names
from cil_func.config.free_table import LARGEST
from cil_func.config.messages import Allowed


def _increasing(values: tuple[int, ...]) -> tuple[int, ...]:
    if list(values) != sorted(set(values)):
        raise ValueError("not increasing")
    return values


def _none_or_three(values: tuple) -> tuple:
    if len(values) not in (0, 3):
        raise ValueError("neither 0 nor 3 values")
    return values


def _not_empty(values: tuple) -> tuple:
    if not values:
        raise ValueError("empty")
    return values


def _no_repetition(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("a name appears twice")
    return names


def _each_once(order: str | tuple) -> str | tuple:
    if not isinstance(order, str) and (not order or len(set(order)) < len(order)):
        raise ValueError("empty, or a class appears twice")
    return order


# Group 1: the section's name. p0..p1; n, mmax and timm's set of operations ("t") are never 0.
_RAND_SECTION = re.compile(
    r"(m(?=\d{1,2}$)|n(?=[1-9]\d?$)|mmax(?=[1-9]\d?$)|inc(?=[01]$)|mstd|p(?=0\.|[01]$))\d+(?:\.\d+)?"
    r"|(t)(?:weights|3aw|3a)",
    re.ASCII,
)


def _rand_augment(policy: str) -> str:
    """Returns a valid policy unchanged. Raises ValueError for what timm would refuse, or skip without a word.

    timm does so only after minutes of loading data. It skips "mstdinf", for example. "" is valid.
    """
    variant, *sections = policy.split("-")
    found = [_RAND_SECTION.fullmatch(section) for section in sections]
    named = {match[1] or match[2] for match in found if match}
    if policy and (variant != "rand" or len(named) < len(sections)):  # fewer: one is wrong, or came twice
        raise ValueError("not RandAugment")
    return policy


def _in_tuples(value: Any) -> Any:
    return tuple(map(_in_tuples, value)) if isinstance(value, list) else value


def _no_nul(path: str) -> str:
    if "\0" in path:
        raise ValueError("no file system takes a NUL")
    return path


def _is_own(name: str) -> str:
    if not names.is_own(name):
        raise ValueError("a name of timm's")
    return name


# A tuple instead of TOML's list: a frozen configuration can then be hashed, and nobody edits it in place.
_from_list = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)

Seed = Annotated[int, Interval(ge=0, le=2**31 - 1)]
Count = Annotated[int, Interval(ge=0, le=LARGEST)]
Positive = Annotated[int, Interval(ge=1, le=LARGEST)]
Workers = Annotated[int, Interval(ge=0, le=256), Allowed("an integer in 0..256", example=4)]
Images = Annotated[int, Interval(ge=2, le=2**31 - 1)]  # batch norm needs two; bytes of a batch fit 64 bits
Zero = Annotated[int, Interval(ge=0, le=0), Allowed("0")]  # Literal[0] takes `false` too
Fraction = Annotated[float, Interval(ge=0, lt=1)]
Strength = Annotated[float, Interval(ge=0, le=1)]
Own = Annotated[
    str, Field(pattern=names.PATTERN), AfterValidator(_is_own),
    Allowed('your own "package.module:function" or "path/file.py:function"'),
]  # fmt: skip
Backbone = Annotated[
    str, Field(pattern=r"^(resnet(8|14|20|32|44|56|110)|timm:[A-Za-z0-9_]+)$"),
    Allowed(
        '"resnet8", 14, 20, 32, 44, 56 or 110 (CIFAR\'s), or "timm:NAME", a NAME without dots', example="timm:resnet18"
    ),
]  # fmt: skip
Loggers = Annotated[
    tuple[Literal["tensorboard", "wandb"], ...],
    _from_list, AfterValidator(_no_repetition),
    Allowed('a list of "tensorboard", "wandb" or both', example=["tensorboard"]),
]  # fmt: skip
Patterns = Annotated[
    tuple[str, ...],
    _from_list, AfterValidator(_no_repetition),
    Allowed("a list of paths, in which *, ? and [] are wildcards", example=["backbone"]),
]  # fmt: skip
RateFactors = Annotated[
    tuple[tuple[str, Annotated[float, Interval(gt=0)]], ...],
    BeforeValidator(lambda value: _in_tuples(value)),
    Allowed("a list of [path, factor > 0], in whose paths *, ? and [] are wildcards", example=[["backbone", 0.1]]),
]  # fmt: skip
Epochs = Annotated[
    tuple[Positive, ...],
    _from_list, AfterValidator(_increasing), Allowed("a list of increasing integers >= 1", example=[60, 100]),
]  # fmt: skip
Sizes = Annotated[
    tuple[Positive, ...],
    _from_list, AfterValidator(_not_empty), Allowed("a list of integers >= 1", example=[10, 20, 20]),
]  # fmt: skip
Means = Annotated[
    tuple[Annotated[float, Interval(ge=0, le=1)], ...],
    _from_list, AfterValidator(_none_or_three), Allowed("[], or three numbers in 0..1", example=[0.5, 0.5, 0.5]),
]  # fmt: skip
Deviations = Annotated[
    tuple[Annotated[float, Interval(gt=0, le=1)], ...],
    _from_list, AfterValidator(_none_or_three),
    Allowed("[], or three numbers > 0 and <= 1", example=[0.25, 0.25, 0.25]),
]  # fmt: skip
Colour = Annotated[
    tuple[Annotated[int, Interval(ge=0, le=255)], ...],
    _from_list, AfterValidator(_none_or_three), Allowed("[], or three integers in 0..255", example=[0, 0, 0]),
]  # fmt: skip
ClassOrder = Annotated[
    Literal["canonical", "shuffled", "sorted"] | tuple[Count, ...] | tuple[str, ...],
    _from_list, AfterValidator(_each_once),
    Allowed('one of "canonical", "shuffled", "sorted", or a list of class indices or of names, each once',
            example="shuffled"),
]  # fmt: skip
RandAugment = Annotated[
    str, AfterValidator(_rand_augment),
    Allowed('"", or RandAugment in timm\'s words: "rand-m9-mstd0.5-inc1" (m, n, p, mstd, mmax, inc, t)',
            example="rand-m9-mstd0.5-inc1"),
]  # fmt: skip
SUBSETS = ("first-100", "seed-1993")
Subset = Annotated[
    str, AfterValidator(_no_nul), Allowed('"", "first-100", "seed-1993" or the path of a file', example="first-100")
]
Folder = Annotated[
    str, AfterValidator(_no_nul), Allowed("a path as a string in quotes, without NUL", example="my/images")
]
