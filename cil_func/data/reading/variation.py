"""Finds classes whose training images are all alike or of one colour, which is the sign of a mistake."""

from collections.abc import Sequence

import numpy as np


def constant_class_warnings(images: np.ndarray, targets: np.ndarray, class_names: Sequence[str]) -> list[str]:
    """Returns one warning for each kind of class without variation; [] if all classes vary.

    images: uint8 (N, H, W, 3). targets: int (N,), class indices. class_names: of the indices, for the warnings.
    A class has no variation if more than half of its images have a single colour each (the first kind), or if it has
    several images and all are equal (the second kind).
    """
    counts = np.bincount(targets, minlength=len(class_names))
    flat = np.bincount(targets[_single_coloured(images)], minlength=len(class_names))
    rows = np.split(np.argsort(targets, kind="stable"), np.cumsum(counts)[:-1])  # the rows of each class
    plain = np.flatnonzero(2 * flat > counts).tolist()
    same = [index for index, own in enumerate(rows) if index not in plain and _all_equal(images, own)]
    return [
        f"the training images of {_text_of(found, class_names)} {what}"
        for found, what in ((plain, "have one colour all over, or most of them do"), (same, "are all the same"))
        if found
    ]


def _single_coloured(images: np.ndarray) -> np.ndarray:
    """Returns which images have one colour all over, bool (N,)."""
    first = images[:, :1, :1]
    some = images[:, images.shape[1] // 2, :: max(1, images.shape[2] // 16)]  # most images differ in these pixels
    flat = (some == first[:, 0]).all(axis=(1, 2))
    for row in np.flatnonzero(flat):
        flat[row] = (images[row] == first[row]).all()
    return flat


def _all_equal(images: np.ndarray, rows: np.ndarray) -> bool:
    return len(rows) > 1 and all(np.array_equal(images[row], images[rows[0]]) for row in rows[1:])


def _text_of(indices: list[int], class_names: Sequence[str]) -> str:
    """Returns the classes as text: "class 'a'", "classes 'a', 'b', 'c' and 2 more", "all classes"."""
    if len(indices) == len(class_names):
        return "all classes"
    shown = ", ".join(repr(class_names[index]) for index in indices[:3])
    more = f" and {len(indices) - 3} more" if len(indices) > 3 else ""
    return f"class {shown}" if len(indices) == 1 else f"classes {shown}{more}"
