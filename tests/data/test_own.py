"""What a user's own data function may return, and what is said of anything else."""

import numpy as np
import pytest
import torch

from cil_func.data import own
from cil_func.data.sources import Dataset
from cil_func.errors import DataError

IMAGES = np.zeros((4, 6, 8, 3), dtype=np.uint8)
TARGETS = np.array([0, 1, 1, 0], dtype=np.int32)
NAMES = ["a", "b"]
GOOD = (IMAGES, TARGETS, IMAGES[:2], TARGETS[:2], NAMES)


@pytest.mark.parametrize("value", [GOOD, list(GOOD), Dataset(*GOOD)])
def test_five_values_or_a_data_set(value):
    found = own.checked(value, name="f.py:make")
    assert found.class_names == ("a", "b") and found.train_targets.dtype == np.int64
    assert found.train_images.shape == (4, 6, 8, 3) and found.test_targets.tolist() == [0, 1]


@pytest.mark.parametrize(("change", "line"), [
    (lambda good: None, r"returned NoneType; return \(train images"),
    (lambda good: good[:3], "returned a tuple of 3 whose last is ndarray; return"),
    (lambda good: (*good[:4], 2), "returned a tuple of 5 whose last is int; return"),
    (lambda good: (*good[:4], None), "returned a tuple of 5 whose last is NoneType; return"),
    (lambda good: ([IMAGES[0], IMAGES[0][:3]] * 2, *good[1:]), "train images or targets differ in size"),
    (lambda good: (good[0], [[0], [1, 2], [0], [1]], *good[2:]), "train images or targets differ in size"),
    (lambda good: (good[0], np.array([0, 1, 1, 2**45]), *good[2:]), "reach beyond the 2 class names"),
    (lambda good: (good[0] / 255.0, *good[1:]), r"train images are float64 \(4, 6, 8, 3\); give uint8"),
    (lambda good: (*good[:2], good[2][:, :, :, :1], *good[3:]), r"test images are uint8 \(2, 6, 8, 1\)"),
    (lambda good: (good[0], good[1][:3], *good[2:]), r"train targets are int32 \(3,\); give integers \(4,\)"),
    (lambda good: (good[0], good[1] * 1.0, *good[2:]), "train targets are float64"),
    (lambda good: (good[0], good[1] + 1, *good[2:]), r"reach beyond the 2 class names; give indices 0\.\.1"),
    (lambda good: (good[0], good[1] - 1, *good[2:]), "reach beyond"),
    (lambda good: (*good[:3], good[3] * 0, good[4]), "test: class 1 has no image"),
    (lambda good: (*good[:4], ["a", "a"]), "names a class twice"),
    (lambda good: (*good[:2], good[2][:, :5], *good[3:]), "train and test images of 8x6 and 8x5 pixels"),
])  # fmt: skip
def test_anything_else_is_one_line(change, line):
    with pytest.raises(DataError, match=line) as failure:
        own.checked(change(GOOD), name="f.py:make")
    assert "\n" not in str(failure.value) and "f.py:make" in str(failure.value)


def test_arrays_that_can_not_be_written_are_copied(tmp_path, recwarn):
    """As those of numpy.load(..., mmap_mode="r"), of which torch would warn."""
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    found = own.checked((mapped, *GOOD[1:]), name="f.py:make")
    torch.from_numpy(found.train_images)
    assert found.train_images.flags.writeable and not recwarn
    assert np.shares_memory(own.checked(GOOD, name="f.py:make").train_images, IMAGES)
