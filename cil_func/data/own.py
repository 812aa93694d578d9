"""Checks a data set that a user's own function returns."""

import unicodedata
from typing import Any

import numpy as np

from cil_func.data.sources import Dataset
from cil_func.errors import DataError


def checked(value: Any, *, name: str) -> Dataset:
    """Returns what a user's own function returned as a `Dataset`, its targets as int64.

    value: a Dataset, or (train images, train targets, test images, test targets, class names). Images are arrays uint8
    (N, H, W, 3) of one size. Targets are class indices (N,). class_names[i] is the name of class i.
    name: of the user's function, for messages.
    Raises DataError, one line, for anything else, for a name that two classes have, and for a class without images in
    one of the splits.
    """
    try:
        arrays = Dataset(*value) if not isinstance(value, Dataset) else value
        names = tuple(unicodedata.normalize("NFC", str(each)) for each in arrays.class_names)  # as folders' names are
    except TypeError:
        raise DataError(
            f"data.name: {name} returned {_kind_of(value)}; return (train images, train targets, test images, "
            "test targets, class names)"
        ) from None
    if len(set(names)) < len(names):
        raise DataError(f"data.name: {name} names a class twice; give each class a name of its own")
    splits = [
        _split(images, targets, len(names), f"data.name: {name}: {split}")
        for split, images, targets in (
            ("train", arrays.train_images, arrays.train_targets), ("test", arrays.test_images, arrays.test_targets)
        )
    ]  # fmt: skip
    if splits[0][0].shape[1:] != splits[1][0].shape[1:]:
        sizes = " and ".join(f"{images.shape[2]}x{images.shape[1]}" for images, _ in splits)
        raise DataError(f"data.name: {name}: train and test images of {sizes} pixels; bring them to one size")
    return arrays._replace(
        train_images=splits[0][0], train_targets=splits[0][1], test_images=splits[1][0], test_targets=splits[1][1],
        class_names=names,
    )  # fmt: skip


def _split(images: Any, targets: Any, num_classes: int, place: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images and targets of one split as arrays, uint8 (N, H, W, 3) and int64 (N,).

    place: the beginning of messages, which says whose images these are.
    Raises DataError for another shape or type, for a target without a class, and for a class without images.
    """
    try:
        images, targets = np.asarray(images), np.asarray(targets)
    except ValueError:  # a list of arrays of several sizes
        raise DataError(f"{place} images or targets differ in size; give arrays, uint8 (N, H, W, 3) and (N,)") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise DataError(f"{place} images are {images.dtype} {images.shape}; give uint8 (N, H, W, 3)")
    if targets.shape != (len(images),) or not np.issubdtype(targets.dtype, np.integer):
        raise DataError(f"{place} targets are {targets.dtype} {targets.shape}; give integers ({len(images)},)")
    inside = len(targets) and targets.min() >= 0 and targets.max() < num_classes
    if not inside:
        last = num_classes - 1
        raise DataError(f"{place} targets reach beyond the {num_classes} class names; give indices 0..{last}")
    found = np.bincount(targets, minlength=num_classes)
    if not found.all():
        raise DataError(f"{place}: class {int(found.argmin())} has no image; leave its name out, or give it images")
    return np.require(images, requirements=["C", "W"]), targets.astype(np.int64)


def _kind_of(value: Any) -> str:
    """Returns what a function returned, in words: "int", or "a tuple of 5 whose last is int"."""
    if isinstance(value, (tuple, list)) and value:
        return f"a {type(value).__name__} of {len(value)} whose last is {type(value[-1]).__name__}"
    return type(value).__name__
