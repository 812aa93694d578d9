"""The images of a run that extends another one: the exemplars of its old classes, and the images of the new ones."""

import math
from typing import NamedTuple

import numpy as np
import torch

from cil_func.data.reading import file_table
from cil_func.data.reading.file_table import Pixels
from cil_func.data.sources import Dataset
from cil_func.errors import ConfigError, DataError
from cil_func.methods.base import Method
from cil_func.runs import memory_files
from cil_func.runs.parent import Parent

_MIXED = "has measured on validation images (data.tests_on); with later phases on test images, averages mix both"
_HELD_OUT = 0.2  # of the exemplars of each old class, where its test images are gone


class Tests(NamedTuple):
    """Images on which old classes are tested, the label of each, int64 (N,), and what they are."""

    images: Pixels
    labels: np.ndarray
    told: str


def refuse_method(method: Method, parent: Parent) -> None:
    """Raises ConfigError if a method can't extend a run: it trains on all old images, or wants exemplars and has none.

    Raises DataError if an exemplar is missing of a class that needs one.
    """
    if method.restart:
        raise ConfigError(f"method.name: {method.name} trains on all images of all classes; train anew on all of them")
    if not method.uses_memory:
        return
    if parent.memory is None or not len(parent.memory.labels):
        raise ConfigError(
            f"method.name: {method.name} trains on exemplars too, and {parent.directory} keeps none (memory.keep); "
            "take a method without, such as lwf"
        )
    without = sorted(set(range(len(parent.class_names))) - set(parent.memory.labels.tolist()))
    if without:
        name = parent.class_names[without[0]]
        raise DataError(f"{parent.directory}/memory: class {name!r} has no image left; put one back from a copy")


def check_names(new: tuple[str, ...], parent: Parent) -> None:
    """Raises DataError if a new class has the name of one that the parent knows."""
    known = [name for name in new if name in parent.class_names]
    if known:
        raise DataError(
            f"class {known[0]!r} is known to {parent.directory} already; leave it out, or give it another name: more "
            "images of a known class are no new class"
        )


def old_tests(parent: Parent, data: Dataset | None) -> Tests:
    """Returns the images on which the old classes are tested.

    data: the parent's own data set, whose test images are taken; None if it isn't there any more. Then it is a fifth of
    each class's exemplars, at least one, those chosen last: they are not trained on.
    Raises DataError if some class has a single exemplar, or none.
    """
    if data is not None:
        labels = np.argsort(parent.results["class_order"])[data.test_targets]
        return Tests(data.test_images, labels, "test images")
    held = held_out(parent)
    if parent.memory is None or len(held) < len(parent.class_names):
        raise DataError(
            f"the test images of the old classes are not at {parent.config.data.path or 'their place'} any more, and "
            f"{parent.directory} holds too few exemplars to keep some for tests; put the data back"
        )
    rows = np.concatenate([held[label] for label in sorted(held)])
    return Tests(parent.memory.images[rows], parent.memory.labels[rows], "held-out exemplars")


def held_out(parent: Parent) -> dict[int, np.ndarray]:
    """Returns {label: positions in the parent's memory} of the exemplars that are kept for tests of old classes.

    Of a class with one exemplar none can be kept: it has no entry.
    """
    found: dict[int, np.ndarray] = {}
    for label in range(len(parent.class_names)) if parent.memory else ():
        assert parent.memory
        own = np.flatnonzero(parent.memory.labels == label)
        if len(own) > 1:
            found[label] = own[len(own) - math.ceil(_HELD_OUT * len(own)) :]
    return found


def join(parent: Parent, new: Dataset, tests: Tests, *, uses_memory: bool) -> Dataset:
    """Returns the data set of all classes: the old ones by order of arrival, then the new ones.

    new: of the new classes alone. tests: of the old ones. uses_memory: whether the method trains on exemplars; if not,
    the old classes have no training images.
    Raises DataError if the new images are of another size than the parent's.
    """
    height, width = new.train_images.shape[1:3]
    if (height, width) != parent.image_size:
        high, wide = parent.image_size
        fix = f"set data.image_size = {high}" if high == wide else "give them that size"
        raise DataError(f"the new images are {width}x{height}, those of {parent.directory} {wide}x{high}; {fix}")
    known, stored = len(parent.class_names), parent.memory if uses_memory else None
    old_images = stored.images if stored else np.empty((0, height, width, 3), dtype=np.uint8)
    old_labels = stored.labels if stored else new.train_targets[:0]
    sources = stored.sources if stored else ()
    files = new.train_files or tuple(f"image {row} of the training set" for row in range(len(new.train_targets)))
    gone = tuple(stored.deleted) if stored else ()
    folder = parent.directory / memory_files.FOLDER
    notes = [f"{len(gone)} exemplars were deleted from {folder}, the first one {gone[0]}"] if gone else []
    if parent.config.data.tests_on == "validation":
        notes.append(f"{parent.directory} {_MIXED}")
    notes += [line for line in parent.results.get("data_warnings", []) if line.endswith(_MIXED)]
    if tests.told != "test images":
        notes.append(
            f"the old classes are tested on {len(tests.labels)} of their exemplars, which are not trained on, since "
            "their own test images are gone"
        )
    return new._replace(
        train_images=file_table.join(old_images, new.train_images),
        train_targets=np.concatenate([old_labels, new.train_targets + known]),
        test_images=file_table.join(tests.images, new.test_images),
        test_targets=np.concatenate([tests.labels, new.test_targets + known]),
        class_names=(*parent.class_names, *new.class_names),
        warnings=(*new.warnings, *notes),
        train_files=(*sources, *files),
        tested_on=tests.told,
    )


def held_rows(parent: Parent, data: Dataset) -> dict[int, torch.Tensor]:
    """Returns {label: rows of the training images} of the exemplars that are not trained on, since they are for tests.

    data: as `join` made it, where the parent's exemplars are the first training images.
    """
    if data.tested_on != "held-out exemplars":
        return {}
    return {label: torch.from_numpy(rows) for label, rows in held_out(parent).items()}
