import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cil_func import metrics

# sums over a run


def test_average_incremental_accuracy_by_hand():
    # the facts' own run: (45.1 + 38.0 + 38.9 + 36.4 + 36.6 + 36.6) / 6 = 231.6 / 6
    average = metrics.average_incremental_accuracy([45.1, 38.0, 38.9, 36.4, 36.6, 36.6])
    assert isinstance(average, float) and average == pytest.approx(38.6)
    assert metrics.average_incremental_accuracy([70]) == 70.0


def test_forgetting_by_hand():
    # phase 0: best earlier 0.9, final 0.4: 0.5. Phase 1: 0.8 - 0.4 = 0.4. Mean 0.45. Divided by three it
    # would be 0.30; continuum, which leaves the newest old phase out of the sum, says 0.5 / 2 = 0.25
    assert metrics.forgetting([[0.9], [0.6, 0.8], [0.4, 0.4, 0.7]]) == pytest.approx(0.45)


def test_forgetting_takes_the_best_and_not_the_first_or_the_last_but_one():
    # phase 0 rises to 80 after phase 1, then 70, ends at 50: 30. Phase 1: 60 then 65, ends at 55: 10.
    # Phase 2: 90, ends at 85: 5. Mean 15
    matrix = [[75], [80, 60], [70, 65, 90], [50, 55, 85, 99]]
    assert metrics.forgetting(matrix) == pytest.approx(15.0)


def test_forgetting_is_negative_where_old_phases_improve():
    # the best *earlier*: the final accuracy isn't a candidate, or this would be 0
    assert metrics.forgetting([[50], [60, 70]]) == pytest.approx(-10.0)


def test_forgetting_of_a_single_phase_is_none():
    assert metrics.forgetting([[77.1]]) is None


def test_backward_transfer_by_hand():
    # phase 0: 0.4 at the end, 0.9 when it was learned: -0.5. Phase 1: 0.4 - 0.8 = -0.4. Mean -0.45
    assert metrics.backward_transfer([[0.9], [0.6, 0.8], [0.4, 0.4, 0.7]]) == pytest.approx(-0.45)


def test_backward_transfer_compares_with_the_accuracy_when_learned_and_forgetting_with_the_best():
    # phase 0 rises from 75 to 80 and ends at 50: 50 - 75 = -25. Phase 1: 55 - 60 = -5. Phase 2: 95 - 90 = 5. Mean -25/3
    matrix = [[75], [80, 60], [70, 65, 90], [50, 55, 95, 99]]
    assert metrics.backward_transfer(matrix) == pytest.approx(-25 / 3)
    # forgetting: 80 - 50 = 30, 65 - 55 = 10, 90 - 95 = -5. Mean 35/3
    assert metrics.forgetting(matrix) == pytest.approx(35 / 3)


def test_forward_transfer_by_hand():
    # what was known of phase 1 after phase 0: 30, of phase 2 after phase 1: 16; untrained: 10 and 12. (20 + 4) / 2
    # The baseline of phase 0, and all entries but those above the diagonal, don't count
    matrix = [[90, 30, 11], [60, 80, 16], [40, 40, 70]]
    assert metrics.forward_transfer(matrix, [50, 10, 12]) == pytest.approx(12.0)
    assert metrics.forward_transfer([[0, 30, 0], [0, 0, 16], [0, 0, 0]], [0, 10, 12]) == pytest.approx(12.0)


def test_there_is_no_transfer_in_a_single_phase():
    assert metrics.backward_transfer([[77.1]]) is None and metrics.forward_transfer([[77.1]], [10.0]) is None


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.average_incremental_accuracy([]), "average_incremental_accuracy: no"),
        (lambda: metrics.average_incremental_accuracy([1.0, math.nan]), "average_incremental_.*nan"),
        (lambda: metrics.forgetting([]), "forgetting: no row"),
        (lambda: metrics.forgetting([[1.0], [1.0]]), "forgetting: row 1 has 1 entries; .* 2"),
        (lambda: metrics.forgetting([[1.0, 2.0], [1.0, 2.0]]), "forgetting: row 0 has 2 entries"),
        (lambda: metrics.forgetting([[1.0], [math.nan, 1.0]]), "forgetting: .*nan"),
        (lambda: metrics.backward_transfer([]), "backward_transfer: no row"),
        (lambda: metrics.backward_transfer([[1.0, 2.0], [1.0, 2.0]]), "backward_transfer: row 0 has 2 entries"),
        (lambda: metrics.backward_transfer([[1.0], [math.inf, 1.0]]), "backward_transfer: .*inf"),
        (lambda: metrics.forward_transfer([], []), "forward_transfer: 0 rows"),
        (lambda: metrics.forward_transfer([[1.0], [1.0, 2.0]], [0, 0]), r"forward_transfer: 2 rows of \[1, 2\]"),
        (lambda: metrics.forward_transfer([[1.0, 2.0], [1.0, 2.0]], [0]), "forward_transfer: .* a baseline of 1"),
        (lambda: metrics.forward_transfer([[1.0, math.nan], [1.0, 2.0]], [0, 0]), "forward_transfer: .*nan"),
        (lambda: metrics.forward_transfer([[1.0, 2.0], [1.0, 2.0]], [0, math.nan]), "forward_transfer: .*nan"),
    ],
)
def test_sums_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# accuracy


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 8), st.integers(0, 999), st.booleans())
def test_top_k_is_that_of_a_sorted_list(rows, classes, k, seed, ties):
    draws = np.random.RandomState(seed)
    scores = draws.randint(0, 3, (rows, classes)) if ties else draws.randn(rows, classes)
    targets = draws.randint(0, classes, rows)
    # sorted is stable: equal scores keep the order of classes, so ties go to the lower one
    hits = [
        target in sorted(range(classes), key=lambda c, row=row: -row[c])[:k]
        for row, target in zip(scores.tolist(), targets, strict=True)
    ]
    given_scores, given_targets = torch.from_numpy(scores), torch.from_numpy(targets)
    assert metrics.correct(given_scores, given_targets, k=k).tolist() == hits
    assert metrics.accuracy(given_scores, given_targets, k=k) == pytest.approx(100 * sum(hits) / rows)
    if k == 1:
        assert hits == (scores.argmax(axis=1) == targets).tolist()
    if k >= classes:
        assert all(hits)


def test_top_k_agrees_with_scikit_learn():
    from sklearn.metrics import top_k_accuracy_score

    draws = np.random.RandomState(0)
    scores, targets = draws.randn(200, 10), draws.randint(0, 10, 200)
    for k in (1, 3, 5):
        ours = metrics.accuracy(torch.from_numpy(scores), torch.from_numpy(targets), k=k)
        assert ours == pytest.approx(100 * top_k_accuracy_score(targets, scores, k=k, labels=range(10)))


def test_a_model_that_answers_the_same_everywhere_knows_one_class():
    for constant in (0.0, -math.inf):
        assert metrics.accuracy(torch.full((4, 4), constant), torch.arange(4)) == 25.0


def test_per_phase_accuracy_by_hand():
    correct = torch.tensor([True, False, True, True, False, False, False, True])
    phase_of = torch.tensor([0, 0, 1, 1, 1, 2, 2, 0])
    # phase 0: 2 of 3; phase 1: 2 of 3; phase 2: 0 of 2
    assert metrics.per_phase_accuracy(correct, phase_of, 3) == pytest.approx([200 / 3, 200 / 3, 0.0])


def test_new_share_by_hand():
    predictions = torch.tensor([0, 49, 50, 59, 50])
    assert metrics.new_share(predictions, 50) == pytest.approx(3 / 5)
    assert metrics.new_share(predictions, 0) == 1.0
    assert metrics.new_share(predictions, 60) == 0.0


SCORES, TARGETS = torch.zeros(2, 3), torch.tensor([0, 1])
RIGHT = torch.tensor([True, False])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.accuracy(SCORES[:0], TARGETS[:0]), r"correct: scores \(0, 3\)"),
        (lambda: metrics.accuracy(SCORES[:, :0], TARGETS), r"correct: scores \(2, 0\)"),
        (lambda: metrics.accuracy(SCORES[0], TARGETS), r"correct: scores \(3,\)"),
        (lambda: metrics.accuracy(SCORES, TARGETS[:1]), r"correct: .*targets \(1,\)"),
        (lambda: metrics.accuracy(SCORES, TARGETS, k=0), r"correct: k=0"),
        (lambda: metrics.accuracy(SCORES, TARGETS + 2), r"correct: targets from 2 to 3"),
        (lambda: metrics.accuracy(SCORES, TARGETS - 1), r"correct: targets from -1 to 0"),
        (lambda: metrics.accuracy(SCORES / 0, TARGETS), r"correct: scores hold NaN"),
        (lambda: metrics.per_phase_accuracy(RIGHT, TARGETS[:1], 2), r"per_phase_accuracy: .*\(2,\)"),
        (lambda: metrics.per_phase_accuracy(RIGHT, TARGETS, 1), r"per_phase_accuracy: phase_of from 0 to 1"),
        (lambda: metrics.per_phase_accuracy(RIGHT, TARGETS, 3), r"per_phase_accuracy: phase 2 of 3 has no"),
        (lambda: metrics.balanced_accuracy(RIGHT, TARGETS[:1]), r"balanced_accuracy: .*\(2,\) and targets \(1,\)"),
        (lambda: metrics.balanced_accuracy(RIGHT[:0], TARGETS[:0]), r"balanced_accuracy: correct \(0,\)"),
        (lambda: metrics.balanced_accuracy(RIGHT, TARGETS - 1), r"balanced_accuracy: a target is -1"),
        (lambda: metrics.new_share(TARGETS[:0], 1), r"new_share: predictions \(0,\)"),
        (lambda: metrics.new_share(SCORES, 1), r"new_share: predictions \(2, 3\)"),
        (lambda: metrics.new_share(TARGETS, -1), r"new_share: .*num_old=-1"),
        (lambda: metrics.class_means(SCORES, TARGETS, 4), r"class_means: no row for classes \[2, 3\]"),
        (lambda: metrics.class_means(SCORES[:0], TARGETS[:0], 1), r"class_means: no row for classes \[0\]"),
        (lambda: metrics.class_means(SCORES, TARGETS, 1), r"class_means: labels from 0 to 1"),
        (lambda: metrics.class_means(SCORES, TARGETS[:1], 1), r"class_means: features \(2, 3\)"),
        (lambda: metrics.nme_scores(SCORES, SCORES[:, :2]), r"nme_scores: .*\(2, 3\).*\(2, 2\)"),
        (lambda: metrics.nme_scores(SCORES[0], SCORES), r"nme_scores: features \(3,\)"),
    ],
)
def test_invalid_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_confusion_is_scikit_learns_and_refuses_what_fits_not():
    from sklearn.metrics import confusion_matrix

    generator = torch.Generator().manual_seed(0)
    predictions, targets = torch.randint(5, (2, 200), generator=generator)
    predictions[predictions == 3] = 4  # a class that is never named
    counts = metrics.confusion(predictions, targets, 6)  # and one without an image
    assert counts.tolist() == confusion_matrix(targets, predictions, labels=range(6)).tolist()
    with pytest.raises(ValueError, match=r"confusion: predictions \(3,\)"):
        metrics.confusion(predictions[:3], targets, 6)
    with pytest.raises(ValueError, match="confusion"):
        metrics.confusion(predictions, targets, 4)


def test_balanced_accuracy_is_scikit_learns():
    from sklearn.metrics import balanced_accuracy_score

    draws = np.random.RandomState(0)
    targets = draws.randint(0, 4, 60) ** 2 // 3  # classes 0, 1 and 3: class 2 has no image
    predictions = np.where(draws.rand(60) < 0.6, targets, 0)
    found = metrics.balanced_accuracy(torch.from_numpy(predictions == targets), torch.from_numpy(targets))
    assert found == pytest.approx(100 * balanced_accuracy_score(targets, predictions))
    assert found != pytest.approx(100 * (predictions == targets).mean())


# calibration and flips


def test_calibration_by_hand():
    # 5 bins: (0.2, 0.4] has 0.4, right; (0.6, 0.8] has 0.7 and 0.8, one right; (0.8, 1] has 1.0, wrong
    confidence = torch.tensor([0.7, 1.0, 0.4, 0.8], dtype=torch.float64)
    correct = torch.tensor([True, False, True, False])
    found = metrics.calibration_bins(confidence, correct, bins=5)
    assert [count for count, *_ in found] == [0, 1, 0, 2, 1]
    assert found[0] == found[2] == (0, 0.0, 0.0)
    assert [found[1], found[3], found[4]] == [(1, 0.4, 1.0), (2, 0.75, 0.5), (1, 1.0, 0.0)]
    # (1 * 0.6 + 2 * 0.25 + 1 * 1) / 4 = 2.1 / 4
    assert metrics.expected_calibration_error(confidence, correct, bins=5) == pytest.approx(0.525)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bins", [1, 7, 15, 100])
def test_an_edge_is_in_the_bin_below_it(bins, dtype):
    """0.07 * 100 is 7.000000000000001. A number beside an edge is in its own bin."""
    edges = torch.tensor([place / bins for place in range(1, bins + 1)], dtype=dtype)  # rounded once, as 0.07 is
    one = torch.ones(bins, dtype=torch.bool)
    assert [count for count, *_ in metrics.calibration_bins(edges, one, bins=bins)] == [1] * bins
    above = torch.nextafter(edges[:-1], torch.ones((), dtype=dtype))
    counts = [count for count, *_ in metrics.calibration_bins(torch.cat([above, edges[-1:]]), one, bins=bins)]
    assert counts == ([0] + [1] * (bins - 2) + [2] if bins > 1 else [1])


def test_calibration_error_is_numpys_by_digitize():
    draws = np.random.default_rng(0)
    confidence, correct = draws.random(500), draws.random(500) < 0.7
    place = np.digitize(confidence, np.arange(1, 15) / 15, right=True)  # edges belong to the lower bin
    gaps = [abs(correct[place == m].mean() - confidence[place == m].mean()) * (place == m).mean() for m in range(15)]
    found = metrics.expected_calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct))
    assert found == pytest.approx(sum(gaps), abs=1e-12) and found > 0.1


def test_calibration_error_is_torchmetrics():
    from torchmetrics.functional.classification import binary_calibration_error  # late: it takes seconds

    draws = torch.Generator().manual_seed(0)
    confidence = 0.5 + 0.5 * torch.rand(500, generator=draws, dtype=torch.float64)  # as of a prediction of two classes
    correct = torch.rand(500, generator=draws) < 0.7
    theirs = binary_calibration_error(confidence, correct.long(), n_bins=15).item()
    assert metrics.expected_calibration_error(confidence, correct) == pytest.approx(theirs, abs=1e-6)


def test_the_extreme_confidences_have_bins():
    found = metrics.calibration_bins(torch.tensor([0.0, 1.0]), torch.tensor([False, True]), bins=3)
    assert found == [(1, 0.0, 0.0), (0, 0.0, 0.0), (1, 1.0, 1.0)]


def test_negative_flips_by_hand():
    before, after = torch.tensor([[True, True, True, False, False], [True, False, False, True, False]])
    assert metrics.negative_flips(before, after) == 2
    assert metrics.negative_flips(after, before) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, half, yes: m.calibration_bins(half[None], yes[None]), r"confidence \(1, 2\) and correct \(1, 2\)"),
        (lambda m, half, yes: m.calibration_bins(half, yes[:1]), r"confidence \(2,\) and correct \(1,\)"),
        (lambda m, half, yes: m.calibration_bins(half[:0], yes[:0]), r"at least 1 prediction"),
        (lambda m, half, yes: m.calibration_bins(half, yes, bins=0), r"bins=0; give 1 or more"),
        (lambda m, half, yes: m.expected_calibration_error(3 * half, yes), r"outside \[0, 1\]"),
        (lambda m, half, yes: m.expected_calibration_error(half * math.nan, yes), r"outside \[0, 1\]"),
        (lambda m, half, yes: m.negative_flips(yes, yes[:1]), r"negative_flips: \(2,\) and \(1,\)"),
    ],
)
def test_calibration_and_flips_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call(metrics, torch.tensor([0.5, 0.5]), torch.tensor([True, True]))


# nearest mean of exemplars


def test_class_means_by_hand():
    # class 0: (2, 0) and (0, 3) -> (1, 0), (0, 1) -> (.5, .5) -> (1, 1) / sqrt 2; lengths play no part.
    # class 1: (6, 8) -> (.6, .8)
    features = torch.tensor([[2.0, 0.0], [6.0, 8.0], [0.0, 3.0]])
    means = metrics.class_means(features, torch.tensor([0, 1, 0]), 2)
    torch.testing.assert_close(means, torch.tensor([[0.5**0.5, 0.5**0.5], [0.6, 0.8]], dtype=torch.float64))
    # the mean of rows first, then the length: three rows at 0 degrees outweigh one at 90, (3, 1) / sqrt 10
    outweighed = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 7.0]])
    skew = metrics.class_means(outweighed, torch.zeros(4, dtype=torch.int64), 1)
    torch.testing.assert_close(skew, torch.tensor([[3.0, 1.0]], dtype=torch.float64) / 10**0.5)


def test_nme_scores_by_hand():
    # unit feature (1, 0); means (1, 0), (0, 1), (-1, 0): squared distances 0, 2, 4
    means = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    scores = metrics.nme_scores(torch.tensor([[5.0, 0.0]]), means)
    assert scores.tolist() == [[0.0, -2.0, -4.0]]


def test_nme_is_scikit_learns_nearest_centroid_on_unit_rows():
    from sklearn.neighbors import NearestCentroid

    draws = np.random.RandomState(0)
    centres, labels = draws.randn(6, 12), np.arange(300) % 6
    features = centres[labels] + 1.5 * draws.randn(300, 12)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    oracle = NearestCentroid().fit(units[:120], labels[:120])
    oracle.centroids_ /= np.linalg.norm(oracle.centroids_, axis=1, keepdims=True)
    means = metrics.class_means(torch.from_numpy(features[:120]), torch.from_numpy(labels[:120]), 6)
    np.testing.assert_allclose(means, oracle.centroids_, rtol=1e-12)
    scores = metrics.nme_scores(torch.from_numpy(features[120:]), means)
    squared = ((units[120:, None] - oracle.centroids_) ** 2).sum(axis=2)
    np.testing.assert_allclose(scores, -squared, atol=1e-12)
    assert scores.argmax(1).tolist() == oracle.predict(units[120:]).tolist()
    hits = metrics.accuracy(scores, torch.from_numpy(labels[120:]))
    assert 50 < hits < 100  # a task where both right and wrong answers occur


def test_zero_features_and_opposite_exemplars_stay_finite():
    features = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    means = metrics.class_means(features, torch.tensor([0, 0, 1]), 2)
    assert means.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert metrics.nme_scores(torch.zeros(1, 2), means).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_nme_works_in_float64(dtype):
    features = torch.eye(3, dtype=dtype)
    means = metrics.class_means(features, torch.arange(3), 3)
    assert means.dtype == metrics.nme_scores(features, means).dtype == torch.float64


# spread: of the features around the means, far away or among them
@pytest.mark.parametrize(("dtype", "spread"), [("float32", 1.0), ("float64", 3e-10)])
def test_nme_tells_means_apart_that_differ_by_a_billionth(dtype, spread):
    draws = np.random.RandomState(0)
    means = draws.randn(1, 16) + 1e-9 * draws.randn(20, 16)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    features = (means[np.arange(400) % 20] + spread * draws.randn(400, 16)).astype(dtype)
    units = features.astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    squared = ((units[:, None] - means) ** 2).sum(axis=2)  # (N, K), each difference taken before it is squared
    scores = metrics.nme_scores(torch.from_numpy(features), torch.from_numpy(means))
    assert scores.argmax(1).tolist() == squared.argmin(axis=1).tolist()
    assert len(set(squared.argmin(axis=1))) > 10  # many different answers


def test_class_means_of_float32_features_keep_gaps_that_float32_loses():
    """One component of class 1 is a single bit of float32 larger; the means are those of exact arithmetic."""
    row = np.float32([0.6, 0.8])
    rows = np.stack([row, [row[0], np.nextafter(row[1], np.float32(1))]])
    exact = rows.astype(np.float64)
    exact /= np.sqrt((exact**2).sum(axis=1, keepdims=True))
    means = metrics.class_means(torch.from_numpy(rows), torch.arange(2), 2)
    np.testing.assert_allclose(means[1] - means[0], exact[1] - exact[0], rtol=1e-6)


def test_nme_scores_of_several_models_by_vmap_are_a_loop():
    draws = torch.Generator().manual_seed(0)
    features, means = torch.randn(3, 7, 4, generator=draws), torch.randn(3, 5, 4, generator=draws)
    expected = [metrics.nme_scores(*pair) for pair in zip(features, means, strict=True)]
    torch.testing.assert_close(torch.func.vmap(metrics.nme_scores)(features, means), torch.stack(expected))


def test_tiny_features_are_normalised_as_others_are():
    features = torch.tensor([[1e-20, 0.0], [0.0, 1e-30], [0.0, 0.0]])
    scores = metrics.nme_scores(features, torch.eye(2))
    torch.testing.assert_close(scores, torch.tensor([[0.0, -2.0], [-2.0, 0.0], [-1.0, -1.0]], dtype=torch.float64))


@pytest.mark.parametrize("kind", [torch.int64, torch.float32, torch.uint8])
def test_predictions_in_place_of_which_are_right_are_refused(kind):
    correct, targets = torch.tensor([1, 0, 1]).to(kind), torch.tensor([0, 1, 1])
    for call in (
        lambda: metrics.balanced_accuracy(correct, targets), lambda: metrics.per_phase_accuracy(correct, targets, 2),
        lambda: metrics.negative_flips(correct, correct.bool()),
        lambda: metrics.negative_flips(correct.bool(), correct),
        lambda: metrics.calibration_bins(torch.ones(3), correct),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"is torch\.\w+; give bool, such as predictions == targets"):
            call()
