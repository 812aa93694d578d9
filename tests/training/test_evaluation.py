"""The row of a phase, with every number countable by eye."""

import math

import pytest
import torch

from cil_func.training import calibrating, evaluation

# Features are one-hot over 3 classes; as logits they call each by its place.
FEATURES = torch.eye(3)[[0, 0, 1, 1, 2, 2, 2, 0]]
LABELS = torch.tensor([0, 0, 1, 0, 2, 2, 2, 2])  # classes 0 and 1 are old; rows 3 and 7 are judged wrongly
BIASED = FEATURES + torch.tensor([0.0, 0.0, 5.0])  # calls everything class 2


def test_a_row_by_logits():
    row = evaluation.phase_row(FEATURES, FEATURES, LABELS, [2, 1], logits_before_align=BIASED)
    assert row == {
        "classes_seen": 3,
        "num_new": 1,
        "top1": 75.0,
        "balanced_top1": pytest.approx(100 * (2 / 3 + 1 + 3 / 4) / 3),  # of classes 0, 1 and 2
        "top5": 100.0,
        "nme_top1": None,
        "per_phase_top1": [75.0, 75.0],
        "old_top1": 75.0,
        "new_top1": 75.0,
        "top1_before_align": 50.0,
        "new_share": 3 / 8,
        "new_share_before_align": 1.0,
        "fair_share": 4 / 8,  # of the labels
    }


def test_the_first_phase_has_no_old_classes_and_only_new_predictions():
    row = evaluation.phase_row(FEATURES[:4], FEATURES[:4], LABELS[:4], [3])
    assert row["old_top1"] is None and row["top1_before_align"] is None
    assert row["new_share"] == 1.0 and row["per_phase_top1"] == [row["top1"]] == [75.0]


def test_prediction_by_nearest_class_mean():
    means = torch.eye(3)[[1, 0, 2]]  # the means of classes 0 and 1 are swapped: their images are judged wrongly
    row = evaluation.phase_row(FEATURES, FEATURES, LABELS, [2, 1], means=means, predict="nme")
    assert row["top1"] == row["nme_top1"] == 50.0  # row 3 and three of class 2
    assert row["old_top1"] == 25.0
    by_logits = evaluation.phase_row(FEATURES, FEATURES, LABELS, [2, 1], means=means)
    assert (by_logits["top1"], by_logits["nme_top1"]) == (75.0, 50.0)


def test_a_perfect_model_has_the_fair_share_whatever_the_sizes_of_the_test_sets():
    counts = [30, 2, 1, 10, 3]  # test images a class; the last class is new
    labels = torch.repeat_interleave(torch.tensor(counts))
    right = torch.eye(5)[labels]
    row = evaluation.phase_row(right, right, labels, [4, 1])
    assert (row["top1"], row["balanced_top1"]) == (100.0, 100.0)
    assert row["new_share"] == row["fair_share"] == 3 / 46
    always_0 = torch.eye(5)[torch.zeros(46, dtype=torch.int64)]
    row = evaluation.phase_row(always_0, always_0, labels, [4, 1])
    assert (row["top1"], row["balanced_top1"]) == (pytest.approx(100 * 30 / 46), pytest.approx(100 / 5))


def test_a_method_that_predicts_by_class_means_needs_them():
    with pytest.raises(ValueError, match="without class means"):
        evaluation.phase_row(FEATURES, FEATURES, LABELS, [2, 1], predict="nme")


def test_classes_one_by_one():
    confusion = torch.tensor([[2, 1, 0], [0, 3, 0], [0, 0, 0]])  # class 2 has no test image
    assert evaluation.by_class(confusion, pairs=False) == {"class_top1": [66.67, 100.0, None]}
    assert evaluation.by_class(confusion, pairs=True)["confusion"] == [[0, 0, 2], [0, 1, 1], [1, 1, 3]]


def test_summary_adds_up():
    rows = [{"top1": 90.0, "per_phase_top1": [90.0]}, {"top1": 60.0, "per_phase_top1": [50.0, 70.0]}]
    assert evaluation.summary(rows) == {
        "accuracy_matrix": [[90.0], [50.0, 70.0]],
        "average_incremental_accuracy": 75.0,
        "last_accuracy": 60.0,
        "forgetting": 40.0,
        "backward_transfer": -40.0,
    }
    assert evaluation.summary(rows[:1])["forgetting"] is None is evaluation.summary(rows[:1])["backward_transfer"]


def test_calibration_by_hand():
    """Scores that differ by log 4 are sure by 0.8, by log 9 by 0.9. Held out, 3 of 4 are right: T = log 4 / log 3."""
    tested = torch.tensor([[4.0, 1.0], [4.0, 1.0], [1.0, 9.0], [9.0, 1.0]]).log(), torch.tensor([0, 1, 1, 1])
    found = calibrating.measure(tested, None)
    assert found["ece"] == pytest.approx((2 * abs(0.5 - 0.8) + 2 * abs(0.5 - 0.9)) / 4)
    assert [bin_ for bin_ in found["bins"] if bin_[0]] == [[2, 0.8, 0.5], [2, 0.9, 0.5]]
    assert found["temperature"] is found["ece_calibrated"] is found["bins_calibrated"] is None
    held_out = torch.tensor([[4.0, 1.0]] * 4).log(), torch.tensor([0, 0, 0, 1])
    found = calibrating.measure(tested, held_out)
    temperature = math.log(4) / math.log(3)
    assert found["temperature"] == pytest.approx(temperature, rel=1e-4)
    sure = 9 ** (1 / temperature) / (1 + 9 ** (1 / temperature))
    assert found["ece_calibrated"] == pytest.approx((2 * 0.25 + 2 * (sure - 0.5)) / 4, rel=1e-4)


def test_a_row_keeps_what_results_need():
    judged = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0])
    row = {"top1": 50.0, "confusion": torch.tensor([[1, 1], [0, 0]]), "judged": judged}
    kept, classes = evaluation.split(row | {"validation": dict(row)}, pairs=True)
    assert set(kept) == {"top1", "validation", "calibration"} and kept["validation"] == {"top1": 50.0}
    assert kept["calibration"]["temperature"] == 100  # right and wrong by the same scores: as unsure as can be
    assert classes == {"class_top1": [50.0, None], "confusion": [[0, 0, 1], [0, 1, 1]]}
