"""Do the training images of a class differ? Images that are all black, or all alike, are the sign of a mistake."""

from collections.abc import Sequence

import numpy as np


def constant_class_warnings(images: np.ndarray, targets: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """Warnings, one line each, about classes whose images don't vary; [] if all do.

    images: uint8 (N, H, W, 3); targets: (N,), class indices. A class doesn't vary if more than half of its images have
    one colour all over, or if it has several images and they are all the same.
    """
    counts = np.bincount(targets, minlength=len(class_names))
    flat = np.bincount(targets[_flat(images)], minlength=len(class_names))
    rows = np.split(np.argsort(targets, kind="stable"), np.cumsum(counts)[:-1])  # of each class
    plain = np.flatnonzero(2 * flat > counts).tolist()
    same = [index for index, own in enumerate(rows) if index not in plain and _all_the_same(images, own)]
    return [
        f"the training images of {_named(found, class_names)} {what}"
        for found, what in ((plain, "have one colour all over, or most of them do"), (same, "are all the same"))
        if found
    ]


def _flat(images: np.ndarray) -> np.ndarray:
    """Which images have one colour all over, bool (N,)."""
    first = images[:, :1, :1]
    some = images[:, images.shape[1] // 2, :: max(1, images.shape[2] // 16)]  # in which most images differ already
    flat = (some == first[:, 0]).all(axis=(1, 2))
    for row in np.flatnonzero(flat):
        flat[row] = (images[row] == first[row]).all()
    return flat


def _all_the_same(images: np.ndarray, rows: np.ndarray) -> bool:
    return len(rows) > 1 and all(np.array_equal(images[row], images[rows[0]]) for row in rows[1:])


def _named(indices: list[int], class_names: Sequence[str]) -> str:
    if len(indices) == len(class_names):
        return "all classes"
    shown = ", ".join(repr(class_names[index]) for index in indices[:3])
    more = f" and {len(indices) - 3} more" if len(indices) > 3 else ""
    return f"class {shown}" if len(indices) == 1 else f"classes {shown}{more}"
