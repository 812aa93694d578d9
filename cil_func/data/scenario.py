"""Decides which classes arrive when: the class order, and the phases, as continuum's ClassIncremental cuts them.

Classes have to be numbered 0..K-1, and the order must have each of them once. Both are checked first.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from cil_func import rng
from cil_func.errors import ConfigError, DataError, Mistakes, printable

KINDS = ("canonical", "shuffled", "sorted")
Increment: TypeAlias = int | Literal["auto"] | Sequence[int]
"""Classes of each later phase: one number for all of them, "auto" (see `automatic`), or one number a phase."""
_AUTOMATIC_PHASES = 5
_SHOWN_SIZES = 12  # of a list, in a message
_CANONICAL_SEED = 1993  # the field's order: iCaRL's and everyone's since


@dataclass(frozen=True)
class Phase:
    """The classes that arrive in one phase, and their images.

    index: the phase's number, from 0. classes: the original indices of its new classes, in order of arrival.
    train_rows, test_rows: int64 (M,), ascending, the rows of these classes in the training and in the test images.
    validation_rows: those in the training images that are kept out of train_rows; see `validation.keep_out`.
    """

    index: int
    classes: tuple[int, ...]
    train_rows: Tensor
    test_rows: Tensor
    validation_rows: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))


@dataclass(frozen=True)
class Scenario:
    """The order of the classes, and the phases in which they arrive.

    class_order: the original class indices, in order of arrival. phases: from phase 0 on.
    train_labels, test_labels: int64 (N,), for each image the position of its class in class_order, which is how many
    classes arrive before it.
    """

    class_order: tuple[int, ...]
    phases: tuple[Phase, ...]
    train_labels: Tensor
    test_labels: Tensor


def class_order(
    kind: str | Sequence[int | str], *, num_classes: int, class_names: Sequence[str], order_seed: int = 0
) -> list[int]:
    """Returns the original class indices in order of arrival, a permutation of 0..num_classes-1.

    kind: "canonical" (numpy.random.RandomState(1993).permutation(K), for any K), "shuffled" (drawn from order_seed),
    "sorted" (0, 1, 2, ...), or a list that names each class once, by index or by name.
    class_names: the name of each original index. order_seed: an int; only "shuffled" depends on it.
    Raises DataError if an item of the list is unknown, comes twice, is missing, or is both the index of one class and
    the name of another. Raises ConfigError for an unknown word.
    """
    if kind == "canonical":
        return np.random.RandomState(_CANONICAL_SEED).permutation(num_classes).tolist()
    if kind == "shuffled":
        generator = rng.generator(rng.fold_in(order_seed, "class_order"))
        return torch.randperm(num_classes, generator=generator).tolist()
    if kind == "sorted":
        return list(range(num_classes))
    if isinstance(kind, str):
        raise ConfigError(f"data.class_order = {kind!r}; known are {', '.join(KINDS)}, or a list of classes")
    number = _misleading(kind, class_names)
    if number is not None:
        quoted = ", ".join(f'"{name}"' for name in class_names[:2])
        index = f"the index of class {class_names[number]!r}" if 0 <= number < len(class_names) else "no index"
        also = "the name of another" if 0 <= number < len(class_names) else "the name of a class"
        raise DataError(
            f"data.class_order holds {number}, which is {index} and {also}; give the names in quotes, as in "
            f"[{quoted}, ...]"
        )
    mistakes, order = Mistakes(), []
    for item in kind:
        with mistakes.collected():
            order.append(_class_index(item, num_classes, class_names))
    mistakes.refuse()
    twice = sorted({index for index in order if order.count(index) > 1})
    missing = sorted(set(range(num_classes)) - set(order))
    if twice or missing:
        faults = [("names twice", twice), ("leaves out", missing)]
        found = " and ".join(f"{verb} {listed(indices, class_names)}" for verb, indices in faults if indices)
        raise DataError(f"data.class_order {found}; it has to hold each of the {num_classes} classes once")
    return order


def build(
    train_targets: np.ndarray,
    test_targets: np.ndarray,
    order: Sequence[int],
    *,
    initial_increment: int,
    increment: Increment,
    known: int = 0,
) -> Scenario:
    """Returns the scenario that cuts the classes, in `order`, into phases.

    train_targets, test_targets: int (N,), original class indices. order: of the classes, from `class_order`.
    initial_increment, increment: see `increments`.
    known: how many classes of `order`, the first ones, were learned before: they may have no training images.
    Raises DataError for increments that don't fit, and for another class without training or test images.
    """
    sizes = increments(len(order), initial_increment=initial_increment, increment=increment)
    for split, targets in (("training", train_targets), ("test", test_targets)):
        found = np.unique(targets)
        if split == "training":
            found = np.union1d(found, np.asarray(order[:known], dtype=found.dtype))
        if not np.array_equal(found, np.arange(len(order))):
            odd = sorted(set(found.tolist()) ^ set(range(len(order))))
            raise DataError(f"{split} images don't cover the {len(order)} classes: see class {odd[0]}")
    train_labels, train_rows = _split(train_targets, order, sizes)
    test_labels, test_rows = _split(test_targets, order, sizes)
    starts = np.cumsum([0, *sizes])
    phases = tuple(
        Phase(index, tuple(int(c) for c in order[starts[index] : starts[index + 1]]), *rows)
        for index, rows in enumerate(zip(train_rows, test_rows, strict=True))
    )
    return Scenario(tuple(int(c) for c in order), phases, train_labels, test_labels)


def automatic(num_classes: int, initial_increment: int, increment: Increment) -> tuple[int, int | Sequence[int]]:
    """Returns (initial_increment, increment) with increment = "auto" replaced; a number or a list comes back as it is.

    "auto" becomes num_classes / 5, rounded up, which makes about five phases. If that is 1 and initial_increment is 0,
    initial_increment becomes 2: a phase 0 of a single class would teach nothing.
    """
    if increment != "auto":
        return initial_increment, increment
    increment = -(-num_classes // _AUTOMATIC_PHASES)
    return initial_increment or (2 if increment == 1 else 0), increment


def increments(num_classes: int, *, initial_increment: int, increment: Increment) -> list[int]:
    """Returns the number of new classes in each phase, from phase 0 on.

    initial_increment: classes in phase 0; 0: as many as the first of `increment`.
    increment: classes in each later phase. A number: the last phase has what is left, where continuum refuses a
    remainder. "auto": see `automatic`. A list: the later phases one by one; with initial_increment they add up to
    num_classes.
    Raises DataError for increments that don't fit.
    """
    initial_increment, increment = automatic(num_classes, initial_increment, increment)
    if not isinstance(increment, int):
        return _listed_increments(num_classes, initial_increment, list(increment))
    fits = f"the data has {num_classes} classes, give"
    mistakes = [
        f"data.{key} = {value}; {fits} {least} to {num_classes}"
        for key, value, least in (("increment", increment, 1), ("initial_increment", initial_increment, 0))
        if not least <= value <= num_classes
    ]
    Mistakes(mistakes).refuse()
    sizes = [initial_increment or increment]
    while (left := num_classes - sum(sizes)) > 0:
        sizes.append(min(increment, left))
    return sizes


def _listed_increments(num_classes: int, initial_increment: int, increment: list[int]) -> list[int]:
    """Returns the sizes of all phases if `increment` is a list. Raises DataError if they don't add up to num_classes.

    initial_increment: classes in phase 0; 0: the list begins with phase 0.
    """
    sizes = [initial_increment, *increment] if initial_increment else increment
    if not sizes or min(sizes) < 1 or sum(sizes) != num_classes:
        shown = str(increment) if len(increment) <= _SHOWN_SIZES else f"a list of {len(increment)} sizes"
        before = f"data.initial_increment = {initial_increment} and " if initial_increment else ""
        off = num_classes - sum(sizes)
        fits = f"the data has {num_classes}, give {abs(off)} {'more' if off > 0 else 'fewer'}"
        fits = fits if off else "give sizes >= 1"
        raise DataError(f"{before}data.increment = {shown}: {sum(sizes)} classes in all; {fits}")
    return sizes


def _split(targets: np.ndarray, order: Sequence[int], increments: list[int]) -> tuple[Tensor, list[Tensor]]:
    """Returns the labels (N,), and for each phase the rows of its classes, ascending; int64 tensors.

    targets: (N,), original class indices. order: of the classes. increments: the number of classes in each phase.
    Tests compare it with continuum's ClassIncremental, whose import takes a process several seconds.
    """
    labels = np.argsort(order)[targets]  # the inverse permutation: at which place each class comes
    phases = np.searchsorted(np.cumsum(increments), labels, side="right")
    rows = [torch.from_numpy(np.flatnonzero(phases == index)) for index in range(len(increments))]
    return torch.from_numpy(labels), rows


def _class_index(item: int | str, num_classes: int, class_names: Sequence[str]) -> int:
    """Returns one item of a class order, an index or a name, as an index. Raises DataError if it is no class."""
    if isinstance(item, str):
        item = unicodedata.normalize("NFC", item)  # the form of names that were read from folders
        if item in class_names:
            return class_names.index(item)
        near = get_close_matches(item, class_names, n=1)
        known = listed(range(num_classes), class_names)
        hint = f"did you mean {near[0]!r}?" if near else f"classes are {known}"
        raise DataError(f"data.class_order names {item!r}, which is no class; {hint}")
    if isinstance(item, bool) or not hasattr(item, "__index__") or not 0 <= item < num_classes:
        raise DataError(f"data.class_order holds {item!r}; give names or indices from 0 to {num_classes - 1}")
    return int(item)


def misleading_index(class_names: Sequence[str]) -> int | None:
    """Returns the first class index that is also the name of another class; None if there is none.

    Folders 0 to 10 come in alphabetical order, so that index 2 is folder "10".
    """
    return _misleading(range(len(class_names)), class_names)


def _misleading(items: Sequence[int | str], class_names: Sequence[str]) -> int | None:
    """Returns the first int of `items` that is the index of one class and the name of another; None if there is none.

    Leading zeros of a name don't count.
    """
    numbers = {int(name): index for index, name in enumerate(class_names) if name.isdecimal()}
    return next((item for item in items if not isinstance(item, str) and numbers.get(item, item) != item), None)


def listed(indices: Sequence[int], class_names: Sequence[str]) -> str:
    """Returns the first three classes as text, and how many more there are: "0 (ant), 1 (bee), 2 (cat) and 7 more"."""
    shown = printable(", ".join(f"{index} ({class_names[index]})" for index in indices[:3]))
    return shown + (f" and {len(indices) - 3} more" if len(indices) > 3 else "")
