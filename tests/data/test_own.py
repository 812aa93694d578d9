"""What a user's own data function may return, and what is said of anything else."""

import numpy as np
import pytest

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
    (lambda good: good[:3], "returned tuple; return"),
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
