"""The images of a run that extends another one: the exemplars of its old classes, and the images of the new ones."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from cil_func.data.reading import class_folders, file_table
from cil_func.data.scenario import Scenario
from cil_func.data.sources import Dataset
from cil_func.errors import ConfigError, DataError
from cil_func.methods.base import Method
from cil_func.runs import memory_files, old_tests, own_code
from cil_func.runs.files import CALIBRATION
from cil_func.runs.old_tests import Tests
from cil_func.runs.parent import Parent

_MIXED = "averages mix both"  # the end of notes that later extensions of a run repeat
_TESTED = "old classes are tested on"  # the beginning of one of them


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
            f"class {known[0]!r} is known to {parent.directory} already; leave it out (data.subset names a file with "
            "the classes that are meant), or give it another name: more images of a known class are no new class"
        )


def _refuse_same_images(new: Dataset, parent: Parent, class_tests: Sequence[str]) -> None:
    """Raises DataError if a new class has the test images of an old one: it is the same class under another name.

    class_tests: of the old classes.
    """
    known = {each: name for each, name in zip(class_tests, parent.class_names, strict=True) if each}
    for name, each in zip(new.class_names, new.class_tests, strict=True):
        if each in known:
            raise DataError(
                f"class {name!r} has the test images of class {known[each]!r}, which {parent.directory} knows already; "
                "leave it out: more images of a known class are no new class"
            )


def join(parent: Parent, new: Dataset, tests: Tests, *, uses_memory: bool) -> Dataset:
    """Returns the data set of all classes: the old ones by order of arrival, then the new ones.

    new: of the new classes alone. tests: of the old ones. uses_memory: whether the method trains on exemplars; if not,
    the old classes have no training images.
    Raises DataError if the new images are of another size than the parent's, or a class has those of an old one.
    """
    _refuse_same_images(new, parent, tests.class_tests)
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
    return new._replace(
        train_images=file_table.join(old_images, new.train_images),
        train_targets=np.concatenate([old_labels, new.train_targets + known]),
        test_images=file_table.join(tests.images, new.test_images),
        test_targets=np.concatenate([tests.labels, new.test_targets + known]),
        class_names=(*parent.class_names, *new.class_names),
        warnings=(*new.warnings, *_notes(parent, new, tests)),
        train_files=(*sources, *files),
        class_tests=(*tests.class_tests, *new.class_tests),
        held_out=tests.held_out.labels,
        why_held_out=tests.held_out.why,
    )


def held_rows(parent: Parent, data: Dataset) -> dict[int, torch.Tensor]:
    """Returns {label: rows of the training images} of the exemplars that are not trained on, since they are for tests.

    data: as `join` made it, where the parent's exemplars are the first training images, or none of them are.
    """
    present = bool((data.train_targets < len(parent.class_names)).any())
    none = np.zeros(0, dtype=np.int64)
    return {label: torch.from_numpy(old_tests.held_rows(parent, label) if present else none) for label in data.held_out}


def without_held(found: Scenario, held_out: Mapping[int, torch.Tensor]) -> Scenario:
    """Returns the phases without the training rows that are held out. held_out: as `held_rows` returns them."""
    if not held_out:
        return found
    held = torch.cat([*held_out.values()])
    phases = [replace(each, train_rows=each.train_rows[~torch.isin(each.train_rows, held)]) for each in found.phases]
    return replace(found, phases=tuple(phases))


def tested_on(parent: Parent, data: Dataset) -> str:
    """Returns in words on which images the old classes are tested. data: as `join` made it."""
    held, known = len(data.held_out), len(parent.class_names)
    if held in (0, known):
        return "held-out exemplars" if held else "test images"
    return f"test images, and {held} of {known} classes on held-out exemplars"


def _alike(parent: Parent, new: Dataset) -> list[str]:
    """Returns a line for each new class whose name differs from that of an old one only in case, spaces or forms."""
    known = {class_folders.simplified(name): name for name in parent.class_names}
    alike = {name: known.get(class_folders.simplified(name)) for name in new.class_names}
    return [
        f"class {name!r} is taken for a new one, and {parent.directory} knows {old!r}; leave it out if it is the same"
        for name, old in alike.items()
        if old
    ]


def _notes(parent: Parent, new: Dataset, tests: Tests) -> list[str]:
    """Returns what a person should know about the classes of both and their images, one line each.

    new: of the new classes. tests: of the old ones.
    """
    gone, notes = parent.memory.deleted if parent.memory else (), _alike(parent, new)
    if gone:
        folder = parent.directory / memory_files.FOLDER
        notes.append(f"{len(gone)} exemplars were deleted from {folder}, the first one {gone[0]}")
    for place in own_code.changed(parent.results.get("own_code", {})):
        notes.append(f"{place} has changed since {parent.directory} was trained by it; it is used as it is now")
    if (parent.directory / CALIBRATION).exists():
        notes.append(f"{parent.directory} is calibrated, and this run won't be: python -m cil_func calibrate does that")
    if parent.config.data.tests_on == "validation":
        notes.append(f"{parent.directory} has measured on validation images (data.tests_on); with later phases on test "
                     f"images, {_MIXED}")  # fmt: skip
    earlier = [line for line in parent.results.get("data_warnings", []) if line.endswith(_MIXED)]
    notes += [f"{parent.directory}: {line}" if line.startswith(_TESTED) else line for line in earlier]
    if tests.held_out.labels:
        names = [repr(parent.class_names[label]) for label in tests.held_out.labels]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        count = int(np.isin(tests.labels, tests.held_out.labels).sum())
        notes.append(
            f"{_TESTED} {count} of their exemplars ({shown}), since their own test images are gone: "
            f"{tests.held_out.why}; this run doesn't train on these, but one before it has, so they are easy, and with "
            f"phases on test images {_MIXED}"
        )
    return notes
