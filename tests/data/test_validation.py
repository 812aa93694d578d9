"""Images that are kept for validation: which, how many, and that a cut scenario is the beginning of the whole one."""

import numpy as np
import pytest
import torch

from cil_func.data import scenario, validation
from cil_func.errors import DataError

NAMES = ("ant", "bee", "cat", "dog")
COUNTS = (10, 7, 2, 20)


def whole(order=(2, 0, 3, 1), seed=0):
    targets = np.random.RandomState(seed).permutation(np.repeat(np.arange(4), COUNTS))
    return scenario.build(targets, np.arange(4), order, initial_increment=0, increment=2), targets


def test_each_class_gives_its_share_and_keeps_the_rest():
    found, targets = whole()
    kept = validation.keep_out(found, 0.3, NAMES)
    moved = torch.cat([phase.validation_rows for phase in kept.phases])
    left = torch.cat([phase.train_rows for phase in kept.phases])
    assert np.bincount(targets[moved.numpy()]).tolist() == [3, 2, 1, 6]  # 2.1 and 0.6 are rounded
    assert sorted(torch.cat([moved, left]).tolist()) == list(range(39))
    for phase in kept.phases:
        assert set(targets[phase.validation_rows.numpy()]) == set(phase.classes)
        assert phase.validation_rows.tolist() == sorted(phase.validation_rows.tolist())


def test_the_order_of_classes_does_not_change_which_images_are_kept():
    rows = [
        sorted(torch.cat([phase.validation_rows for phase in validation.keep_out(made, 0.3, NAMES).phases]).tolist())
        for made, _ in (whole(), whole((0, 1, 2, 3)))
    ]
    assert rows[0] == rows[1]


def test_no_share_changes_nothing_and_a_huge_one_leaves_an_image():
    found, targets = whole()
    assert validation.keep_out(found, 0.0, NAMES) is found
    left = torch.cat([phase.train_rows for phase in validation.keep_out(found, 0.99, NAMES).phases])
    assert np.bincount(targets[left.numpy()]).tolist() == [1, 1, 1, 1]


def test_a_class_of_a_single_image_is_refused():
    found = scenario.build(np.array([0, 0, 1]), np.arange(2), [0, 1], initial_increment=0, increment=1)
    with pytest.raises(DataError, match=r"^data\.validation: class 'bee' has 1 training image, .*validation = 0$"):
        validation.keep_out(found, 0.5, NAMES)


def test_validation_images_take_the_place_of_test_images():
    kept = validation.keep_out(whole()[0], 0.3, NAMES)
    judged = validation.as_tests(kept)
    assert judged.test_labels is kept.train_labels
    assert [phase.test_rows.tolist() for phase in judged.phases] == [p.validation_rows.tolist() for p in kept.phases]


def test_the_first_phases_are_those_of_the_whole():
    found, _ = whole()
    cut = validation.first(found, 1)
    assert cut.class_order == (2, 0) and cut.phases == found.phases[:1]
    assert validation.first(found, 0) is found and validation.first(found, 2) == found
    with pytest.raises(DataError, match=r"^data\.phases: 3, and there are 2; "):
        validation.first(found, 3)
