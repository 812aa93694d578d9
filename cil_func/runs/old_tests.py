"""Finds the images on which the old classes of an extended run are tested: their own, or exemplars held out."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cil_func import config as configuration
from cil_func.config import Config
from cil_func.data.reading import file_table
from cil_func.data.reading.file_table import Pixels
from cil_func.data.sources import Dataset
from cil_func.errors import CilError, DataError
from cil_func.runs import fingerprints
from cil_func.runs.parent import Parent

_HELD_OUT = 0.2  # of the exemplars of each old class whose test images are gone

Read = Callable[[Config], Dataset]  # reads the images of a configuration; the training images may be left out


class HeldOut(NamedTuple):
    """The labels of old classes that are tested on exemplars, and what has become of their own images, in words."""

    labels: tuple[int, ...]
    why: str

    @classmethod
    def of_record(cls, record: Mapping[str, Any] | None) -> "HeldOut | None":
        """Returns what `record` has put into a checkpoint's record or results.json; None if there is nothing in it."""
        if not record or "held_out" not in record:
            return None
        return cls(tuple(record["held_out"]), record.get("why_held_out", ""))

    def record(self) -> dict[str, Any]:
        """Returns it as checkpoints and results.json have it."""
        return {"held_out": list(self.labels), "why_held_out": self.why}


class Tests(NamedTuple):
    """Images on which old classes are tested, with the label of each, int64 (N,), its place by order of arrival.

    held_out: the labels whose images are exemplars of the parent. class_tests: for each label the fingerprint of its
    own test images, "" if it isn't known.
    """

    images: Pixels
    labels: np.ndarray
    held_out: HeldOut
    class_tests: tuple[str, ...]


def find(parent: Parent, read: Read, begun: HeldOut | None = None) -> Tests:
    """Returns the images on which the old classes are tested, class by class.

    A class's own test images are taken if they are found: in the data of the parent or of a run that it extends, in a
    folder of any name, and with the same pixels. If not, a fifth of its exemplars is held out, at least one, those
    chosen last.
    read: raises CilError for data that can't be read. begun: what a run that goes on has held out; the other classes'
    own test images have to be there. None: the run begins.
    Raises DataError if a class has neither test images nor two exemplars.
    """
    reasons: list[str] = []
    class_tests = _class_tests(parent, read, reasons)
    wanted = dict(enumerate(class_tests))
    wanted = {label: each for label, each in wanted.items() if each and label not in (begun.labels if begun else ())}
    found: list[tuple[np.ndarray, Pixels]] = []  # the labels of images, and the images
    for config in _configs(parent, reasons) if wanted else ():
        try:
            data = read(_readable(config))
            rows = _rows(data, config, wanted) if tuple(data.test_images.shape[1:3]) == parent.image_size else {}
        except CilError as error:
            reasons.append(str(error))
            continue
        if rows:
            labels = np.concatenate([np.full(len(own), label, dtype=np.int64) for label, own in rows.items()])
            assert not isinstance(data.test_images, file_table.Joined), "a data set is read alone"
            found.append((labels, file_table.take(data.test_images, np.concatenate([*rows.values()]))))
        wanted = {label: each for label, each in wanted.items() if label not in rows}
        if not wanted:
            break
    tested = {int(label) for labels, _ in found for label in np.unique(labels)}
    left = tuple(label for label in range(len(parent.class_names)) if label not in tested)
    why = "; ".join(reasons) or f"those in {parent.config.data.path or parent.config.data.name} are other ones now"
    if begun and (lost := sorted(set(left) - set(begun.labels))):
        raise DataError(
            f"the test images of class {parent.class_names[lost[0]]!r}, on which this run tests it, are gone ({why}); "
            "put them back, or start anew with another --out"
        )
    found += _exemplars(parent, left, why)
    images = reduce(file_table.join, [pixels for _, pixels in found])
    labels = np.concatenate([labels for labels, _ in found])
    return Tests(images, labels, begun or HeldOut(left, why if left else ""), class_tests)


def held_rows(parent: Parent, label: int) -> np.ndarray:
    """Returns the positions in the parent's memory of the exemplars of a class that are held out if it needs it.

    Of a class with a single exemplar none can be held out.
    """
    own = np.flatnonzero(parent.memory.labels == label) if parent.memory else np.zeros(0, dtype=np.int64)
    return own[len(own) - math.ceil(_HELD_OUT * len(own)) :] if len(own) > 1 else own[:0]


def _class_tests(parent: Parent, read: Read, reasons: list[str]) -> tuple[str, ...]:
    """Returns for each class the fingerprint of its own test images, "" if it isn't known.

    A version that noted none of single classes has noted one of all; it counts for a run that has begun from nothing
    and whose images weren't packed. reasons: gets one if nothing is known.
    """
    if known := parent.results.get("class_tests"):
        if "" in known:
            reasons.append("of some no fingerprint is known")
        return tuple(known)
    older = f"{parent.directory} is of a version that noted no fingerprints of single classes"
    try:
        if parent.config.run.extends or parent.config.data.storage == "packed":
            raise DataError(older)
        data = read(parent.config)
        if fingerprints.of_tests(data) != parent.results.get("tests_fingerprint"):
            raise DataError(f"{older}, and its test images together are other ones now")
        own = fingerprints.of_classes(data)
    except CilError as error:
        reasons.append(str(error))
        return ("",) * len(parent.class_names)
    return tuple(own[index] for index in parent.results["class_order"])


def _configs(parent: Parent, reasons: list[str]) -> Iterator[Config]:
    """Yields the configuration of the parent, then those of the runs that it extends. reasons: why one is missing."""
    config, seen = parent.config, {parent.directory.resolve()}
    while True:
        yield config
        if config.data.subset:  # the file may list other classes by now
            yield config.model_copy(update={"data": config.data.model_copy(update={"subset": ""})})
        if not config.run.extends:
            return
        before = Path(config.run.extends)
        if not (before / "config.toml").exists():
            reasons.append(f"{before}, which says where others are, is not there")
            return
        if before.resolve() in seen:  # a run was moved to the place of one that it extends
            reasons.append(f"{before}, which says where others are, is another run now")
            return
        seen.add(before.resolve())
        try:
            config = configuration.of_run(before)
        except CilError as error:
            reasons.append(str(error))
            return


def _readable(config: Config) -> Config:
    """Returns the configuration by which the test images alone are read, whatever else has come or gone meanwhile.

    They are in no packed file, and images in memory that can't be read are left out: their class isn't the same then.
    """
    storage = "resident" if config.data.storage == "packed" else config.data.storage
    on_error = config.data.on_error if storage == "streaming" else "skip"  # which would decode all that is streamed
    return config.model_copy(update={"data": config.data.model_copy(update={"storage": storage, "on_error": on_error})})


def _rows(data: Dataset, config: Config, wanted: dict[int, str]) -> dict[int, np.ndarray]:
    """Returns {label: rows of the test images} of the classes that have a wanted fingerprint, sorted by label.

    config: of the run whose `data` these are. wanted: {label: fingerprint}.
    """
    rows_of: dict[str, list[np.ndarray]] = {}  # two classes may have the same images
    for index, each in enumerate(fingerprints.of_classes(data, packed=config.data.storage == "packed")):
        rows_of.setdefault(each, []).append(np.flatnonzero(data.test_targets == index))
    return {label: rows_of[each].pop(0) for label, each in sorted(wanted.items()) if rows_of.get(each)}


def _exemplars(parent: Parent, labels: Sequence[int], why: str) -> list[tuple[np.ndarray, Pixels]]:
    """Returns [(labels, images)] of the exemplars that are held out; [] for no classes. why: for the message.

    Raises DataError for a class that has too few.
    """
    if not labels:
        return []
    rows = [held_rows(parent, label) for label in labels]
    poor = [parent.class_names[label] for label, own in zip(labels, rows, strict=True) if not len(own)]
    if poor or parent.memory is None:
        raise DataError(
            f"there is nothing to test class {poor[0]!r} on: its test images are gone ({why}), and {parent.directory} "
            "has fewer than two exemplars of it; put the test images back, or a run that knows where they are"
        )
    held = np.concatenate(rows)
    return [(parent.memory.labels[held], parent.memory.images[held])]
