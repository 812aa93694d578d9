"""The comparison of two models' answers, by counting on one's fingers and by numpy."""

import numpy as np
import pytest
import torch

from cil_func.deploy import compare_page, compare_text, comparison
from cil_func.deploy.comparison import Answers

#        label  before  after
IMAGES = [
    ("ant", "ant", "ant"),
    ("ant", "ant", "cow"),  # a negative flip, taken by a new class
    ("ant", "ant", "bee"),  # a negative flip
    ("ant", "bee", "cow"),  # taken, and not right before
    ("bee", "ant", "bee"),  # a positive flip
    ("bee", "bee", "cow"),  # a negative flip, taken
    ("cow", "ant", "cow"),
    ("cow", "bee", "ant"),
    ("eel", "eel", "bee"),  # of a class that the newer one doesn't know
]
LABELS, BEFORE, AFTER = (list(column) for column in zip(*IMAGES, strict=True))
SURE = torch.linspace(0.5, 0.9, len(IMAGES), dtype=torch.float64)
OLD = Answers(("ant", "bee", "eel"), BEFORE, SURE)
NEW = Answers(("bee", "ant", "cow", "dog"), AFTER, SURE.flip(0))


def entry(images, before, after, change, negative, positive, lost):
    keys = ("images", "before", "after", "change", "negative_flips", "positive_flips", "lost_to_new")
    return dict(zip(keys, (images, before, after, change, negative, positive, lost), strict=True))


def test_classes_by_hand():
    found = comparison.compare(LABELS, OLD, NEW)
    assert found["images"] == 9
    assert found["classes"] == [
        {"name": "bee", "kind": "kept"} | entry(2, 50.0, 50.0, 0.0, 1, 1, 1),
        {"name": "ant", "kind": "kept"} | entry(4, 75.0, 25.0, -50.0, 2, 0, 2),
        {"name": "cow", "kind": "new"} | entry(2, None, 50.0, None, None, None, None),
        {"name": "dog", "kind": "new"} | entry(0, None, None, None, None, None, None),
        {"name": "eel", "kind": "dropped"} | entry(1, 100.0, None, None, None, None, None),
    ]
    assert found["kept"] == {"classes": 2} | entry(6, 400 / 6, 200 / 6, -200 / 6, 3, 1, 3)
    assert found["new"] == {"classes": 2} | entry(2, None, 50.0, None, None, None, None)
    assert found["untested"] == ["dog"]


def test_what_new_classes_took_from_whom():
    assert comparison.compare(LABELS, OLD, NEW)["taken"] == [
        {"from": "ant", "by": "cow", "images": 2, "were_right": 1},
        {"from": "bee", "by": "cow", "images": 1, "were_right": 1},
    ]


def test_calibration_is_numpys_on_the_same_images():
    """Both on the six images of kept classes; the newer one also on the eight of its own."""
    found = comparison.compare(LABELS, OLD, NEW)["calibration"]
    right = {
        "before": np.array(LABELS) == np.array(BEFORE),
        "after": np.array(LABELS) == np.array(AFTER),
    }
    sure = {"before": np.linspace(0.5, 0.9, 9), "after": np.linspace(0.9, 0.5, 9)}

    def error(key, count):
        place, gap = np.ceil(sure[key][:count] * 15), sure[key][:count] - right[key][:count]
        return sum(abs(gap[place == bin].sum()) for bin in range(1, 16)) / count

    assert found["kept"]["before"] == pytest.approx(error("before", 6), abs=1e-12)
    assert found["kept"]["after"] == pytest.approx(error("after", 6), abs=1e-12)
    assert found["all"] == pytest.approx(error("after", 8), abs=1e-12)
    assert sum(count for count, *_ in found["diagram"]["after"]) == 6 and found["bins"] == 15


def test_a_fall_must_be_larger_than_the_limit():
    found = comparison.compare(LABELS, OLD, NEW)
    assert [each["name"] for each in comparison.fallen(found, 49.9)] == ["ant"]
    assert comparison.fallen(found, 50) == []
    assert [each["name"] for each in comparison.fallen(found, -0.1)] == ["ant", "bee"]  # the worst first


def test_a_change_is_rounded_once():
    """8 of 12 right, then 5: exactly 25 points. The difference of the two accuracies would be more."""
    assert 100 * 8 / 12 - 100 * 5 / 12 > 25
    old = Answers(("ant", "bee"), ["ant"] * 8 + ["bee"] * 4, torch.full((12,), 0.5))
    new = Answers(("ant", "bee"), ["ant"] * 5 + ["bee"] * 7, torch.full((12,), 0.5))
    found = comparison.compare(["ant"] * 12, old, new)
    assert found["classes"][0]["change"] == -25 and comparison.fallen(found, 25) == []


def test_without_a_common_class_nothing_is_compared():
    found = comparison.compare(["cow"], Answers(("ant",), ["ant"], SURE[:1]), Answers(("cow",), ["cow"], SURE[:1]))
    assert found["kept"] == {"classes": 0} | entry(0, None, None, None, 0, 0, 0)
    assert found["calibration"]["kept"] == {"before": None, "after": None} and found["taken"] == []
    assert found["calibration"]["all"] == pytest.approx(0.5)


def test_the_sums_say_how_many_classes_were_not_tested():
    found = comparison.compare(LABELS, OLD, NEW)
    assert compare_text.summary(found)[0].startswith("2 kept classes, 6 images: 66.7 -> 33.3 %")
    assert "2 new classes (1 without a test image), 2 images: 50.0 %" in compare_text.summary(found)
    rows = [row for row, label in enumerate(LABELS) if label != "ant"]
    old, new = (
        Answers(each.known, [each.predicted[row] for row in rows], each.confidence[rows]) for each in (OLD, NEW)
    )
    found = comparison.compare([LABELS[row] for row in rows], old, new)
    line = "2 kept classes (1 without a test image), 2 images: 50.0 -"
    assert compare_text.summary(found)[0].startswith(line)
    assert line in compare_page.page(found | {"models": {"before": "a", "after": "b"}})


def test_the_first_of_equal_probabilities_is_the_answer():
    found = comparison.answers_of(("ant", "bee", "cow"), torch.tensor([[0.4, 0.4, 0.2], [0.1, 0.2, 0.7]]))
    assert found.predicted == ["ant", "cow"] and found.confidence.tolist() == pytest.approx([0.4, 0.7])
    assert comparison.answers_of(("ant",), torch.zeros(0, 1)).predicted == []
