import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from cil_func import herding


def greedy(rows, count):
    """Herds by the definition, in exact arithmetic. rows: lists of Fractions. Of equal rows the lowest is taken."""
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    chosen = []
    for step in range(1, count + 1):
        distances = {}
        for i in set(range(len(rows))) - set(chosen):
            columns = zip(*(rows[j] for j in [*chosen, i]), strict=True)
            candidate = [sum(column) / step for column in columns]
            distances[i] = sum((a - b) ** 2 for a, b in zip(mean, candidate, strict=True))
        chosen.append(min(sorted(distances), key=distances.get))
    return chosen


def matrices(elements, max_rows=9, max_columns=4):
    return st.integers(1, max_columns).flatmap(
        lambda width: st.lists(
            st.lists(elements, min_size=width, max_size=width), min_size=1, max_size=max_rows
        )
    )


# by hand


def test_one_dimension_by_hand():
    # mean (0 + 1 + 2 + 9) / 4 = 3. First: 2 is nearest (1 off). Then rows 0, 1, 3 give means 1, 1.5, 5.5,
    # off by 2, 1.5, 2.5: row 1. Then (2+1+0)/3 = 1 or (2+1+9)/3 = 4: row 3.
    features = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
    assert herding.herd(features, 4, normalize=False).tolist() == [2, 1, 3, 0]


def test_normalizing_by_hand():
    # unit rows (1,0), (0,1), (0.6,0.8); mean (8/15, 9/15). Squared distances x 225:
    # 49+81 = 130; 64+36 = 100; (9-8)^2 + (12-9)^2 = 10: row 2. Means with it: (0.8, 0.4): 16+9 = 25;
    # (0.3, 0.9): (4.5-8)^2 + (13.5-9)^2 = 32.5: row 0. Lengths 100, 1 and 5 play no part.
    features = torch.tensor([[100.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
    assert herding.herd(features, 3).tolist() == [2, 0, 1]
    # without: mean (103/3, 5/3); row 2 is 31.4 off, row 1 34.3, row 0 65.7; then (51.5, 2) against (1.5, 2.5)
    assert herding.herd(features, 3, normalize=False).tolist() == [2, 0, 1]
    assert herding.herd(features[[1, 0, 2]], 3, normalize=False).tolist() == [2, 1, 0]


def test_the_mean_is_not_normalized():
    # three rows at 0 degrees, two at 90: the mean (0.6, 0.4) is inside the circle. After rows 0 and 3 (mean
    # (.5, .5)), adding a row at 0 gives (2/3, 1/3), 0.0089 off squared; at 90 (1/3, 2/3), 0.142 off.
    features = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 2)
    assert herding.herd(features, 5).tolist() == [0, 3, 1, 4, 2]


# against brute force


@settings(deadline=None, max_examples=150)
@given(matrices(st.integers(-6, 6)), st.data())
@example([[0, 0], [0, 0], [0, 0]], None)
@example([[1], [-1], [1], [-1]], None)
def test_integer_features_are_exact_ties_to_the_lowest_row(rows, data):
    count = len(rows) if data is None else data.draw(st.integers(0, len(rows)))
    exact = greedy([[Fraction(value) for value in row] for row in rows], count)
    assert herding.herd(torch.tensor(rows), count, normalize=False).tolist() == exact


# rows whose length is rational, so that the exact oracle can normalise them
PYTHAGOREAN = [(0, 0), (1, 0), (0, 2), (-1, 0), (0, -3), (3, 4), (4, 3), (-3, 4), (5, 12), (12, 5), (-8, 15)]
SCALED = st.tuples(st.sampled_from(PYTHAGOREAN), st.integers(1, 50))


@settings(deadline=None, max_examples=150)
@given(st.lists(SCALED, min_size=1, max_size=9), st.data())
def test_normalized_rows_are_exact_zero_rows_stay_zero(scaled, data):
    count = data.draw(st.integers(0, len(scaled)))
    units = []
    for (x, y), _ in scaled:
        length = math.isqrt(x * x + y * y) or 1
        units.append([Fraction(x, length), Fraction(y, length)])
    features = torch.tensor([[x * scale, y * scale] for (x, y), scale in scaled])
    assert herding.herd(features, count).tolist() == greedy(units, count)


@settings(deadline=None, max_examples=60)
@given(
    matrices(st.floats(-100, 100, width=32), max_rows=8, max_columns=5), st.booleans(), st.integers(-300, 250)
)
def test_every_pick_on_floats_is_a_best_one(rows, normalize, exponent):
    """Rounding may decide between nearly equal rows: each chosen row's distance is the least up to rounding."""
    features = np.array(rows) * 2.0**exponent
    assume(np.array_equal(features / 2.0**exponent, rows))  # nothing underflowed
    picks = herding.herd(torch.from_numpy(features), len(rows), normalize=normalize).tolist()
    assert sorted(picks) == list(range(len(rows)))
    features = np.array(rows, dtype=np.float64)
    if normalize:
        largest = abs(features).max(axis=1, keepdims=True)
        largest[largest == 0] = 1
        features = features / largest  # or the squares of a tiny row would vanish
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
        features = features / np.where(lengths == 0, 1, lengths)
    mean, size = features.mean(axis=0), np.linalg.norm(features, axis=1).max()
    for step in range(1, len(rows) + 1):
        before = features[picks[: step - 1]].sum(axis=0)
        left = sorted(set(range(len(rows))) - set(picks[: step - 1]))
        distances = {i: np.linalg.norm(mean - (before + features[i]) / step) for i in left}
        # a tie within 1e-12 of the squares may be 1e-6 of the lengths where all of them are near 0
        assert distances[picks[step - 1]] <= min(distances.values()) + 2e-6 * size


def test_large_float_features_follow_the_definition_row_for_row():
    features = np.random.RandomState(0).randn(300, 24)
    for normalize in (True, False):
        rows = features / np.linalg.norm(features, axis=1, keepdims=True) if normalize else features
        mean, chosen = rows.mean(axis=0), []
        for step in range(1, 301):
            sums = rows[chosen].sum(axis=0) + rows
            distances = np.linalg.norm(mean - sums / step, axis=1)
            distances[chosen] = np.inf
            chosen.append(int(distances.argmin()))
        assert herding.herd(torch.from_numpy(features), 300, normalize=normalize).tolist() == chosen


# rows that differ little, far from the origin


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
def test_an_offset_does_not_change_the_choice_by_hand(dtype):
    # mean 1000001 1/3. First: 1000001 is nearest (1/3 off). Then with 1000003 the mean is 1000002 (2/3 off), with
    # 1000000 it is 1000000.5 (5/6 off): row 0.
    features = torch.tensor([[1000003], [1000000], [1000001]], dtype=dtype)
    assert herding.herd(features, 3, normalize=False).tolist() == [2, 0, 1]


@settings(deadline=None, max_examples=150)
@given(matrices(st.integers(-6, 6)), st.integers(1, 12), st.sampled_from([-1, 1]))
def test_integer_features_far_from_the_origin_are_exact(rows, exponent, sign):
    moved = [[value + sign * 10**exponent for value in row] for row in rows]
    exact = greedy([[Fraction(value) for value in row] for row in moved], len(rows))
    assert herding.herd(torch.tensor(moved), len(rows), normalize=False).tolist() == exact


def exact_units(rows, digits=60):
    """Returns rows of Fractions divided by their lengths, up to `digits`; rows of one direction come out equal."""
    units = []
    for row in rows:
        denominator = math.lcm(*(value.denominator for value in row))
        integers = [int(value * denominator) for value in row]
        integers = [value // math.gcd(*integers) * 10**digits for value in integers]
        length = math.isqrt(sum(value * value for value in integers))
        units.append([Fraction(value, length) for value in integers])
    return units


@pytest.mark.parametrize("spread", [1e-3, 1e-5, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unit_rows_around_one_direction_follow_the_definition(dtype, spread):
    for seed in range(20):
        draws = torch.Generator().manual_seed(seed)
        direction = torch.rand(4, generator=draws, dtype=torch.float64)
        features = (direction + spread * torch.randn(12, 4, generator=draws, dtype=torch.float64)).to(dtype)
        exact = greedy(exact_units([[Fraction(value) for value in row] for row in features.tolist()]), 12)
        assert herding.herd(features, 12).tolist() == exact


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(1, 50)), min_size=1, max_size=9))
@example([(1, 1), (1, 3), (1, 7), (1, 49)])
def test_equal_directions_near_each_other_are_a_tie(scaled):
    rows = [[10**5 * scale, (10**5 + side) * scale] for side, scale in scaled]
    exact = greedy(exact_units([[Fraction(value) for value in row] for row in rows]), len(rows))
    assert herding.herd(torch.tensor(rows), len(rows)).tolist() == exact


# properties


@settings(deadline=None, max_examples=60)
@given(matrices(st.integers(-3, 3)), st.booleans())
def test_a_short_choice_is_the_start_of_a_long_one_without_replacement(rows, normalize):
    features = torch.tensor(rows, dtype=torch.float32)
    everything = herding.herd(features, len(rows), normalize=normalize).tolist()
    assert sorted(everything) == list(range(len(rows)))
    for count in range(len(rows)):
        assert herding.herd(features, count, normalize=normalize).tolist() == everything[:count]


@pytest.mark.parametrize("width", [1, 7, 64, 513])
def test_identical_rows_are_taken_in_order(width):
    # a matrix product may sum equal rows differently by their place in a block
    row = torch.randn(width, generator=torch.Generator().manual_seed(width))
    assert herding.herd(row.expand(101, width), 101).tolist() == list(range(101))
    other = torch.cat([row.expand(50, width), -row.expand(50, width)])
    in_turn = [i for pair in zip(range(50), range(50, 100), strict=True) for i in pair]
    assert herding.herd(other, 100).tolist() == in_turn


def test_a_herd_has_the_mean_of_all_better_than_a_random_choice():
    draws = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.rand(500, 32, generator=draws), dim=1)
    mean = features.mean(0)

    def off(rows):
        return (features[rows].mean(0) - mean).norm().item()

    drawn = [off(torch.randperm(500, generator=draws)[:20]) for _ in range(20)]
    assert off(herding.herd(features, 20)) < min(drawn) / 3


def test_huge_and_tiny_features_neither_overflow_nor_vanish():
    base = torch.tensor([[0.0], [1.0], [2.0], [9.0]], dtype=torch.float64)
    for scale in (1e-300, 1e-160, 1e160, 1e300):
        assert herding.herd(base * scale, 4, normalize=False).tolist() == [2, 1, 3, 0]
    rows = torch.tensor([[100.0, 0.0], [0.0, 1e-200], [3e200, 4e200]], dtype=torch.float64)
    assert herding.herd(rows, 3).tolist() == [2, 0, 1]


def test_one_far_row_does_not_blur_the_others():
    # integers: exact, although the first row is a million times the others
    rows = [[10**6, 0], [3, 1], [2, 1], [1, 1], [0, 1], [-4, 2]]
    exact = greedy([[Fraction(value) for value in row] for row in rows], 6)
    assert herding.herd(torch.tensor(rows), 6, normalize=False).tolist() == exact


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64])
def test_any_dtype_and_a_gradient_do_not_matter(dtype):
    features = torch.tensor([[0.0], [1.0], [2.0], [9.0]]).to(dtype)
    before = features.clone()
    if dtype.is_floating_point:
        features.requires_grad_()
    chosen = herding.herd(features, 3, normalize=False)
    assert chosen.tolist() == [2, 1, 3] and chosen.dtype == torch.int64 and chosen.device.type == "cpu"
    assert torch.equal(features, before)


def test_nothing_is_chosen_from_nothing():
    for features in (torch.zeros(0, 3), torch.zeros(4, 3), torch.zeros(4, 0)):
        empty = herding.herd(features, 0)
        assert empty.shape == (0,) and empty.dtype == torch.int64


@pytest.mark.parametrize(
    "features, count, message",
    [
        (torch.zeros(3), 1, r"herd: features \(3,\) are not 2-D"),
        (torch.zeros(3, 2, 2), 1, r"herd: features \(3, 2, 2\)"),
        (torch.zeros(3, 2), 4, r"herd: count=4 of 3 rows"),
        (torch.zeros(3, 2), -1, r"herd: count=-1 of 3 rows"),
        (torch.zeros(0, 2), 1, r"herd: count=1 of 0 rows"),
        (torch.tensor([[0.0], [math.nan], [math.inf]]), 1, r"herd: 2 of 3 rows .* first row 1"),
        (torch.tensor([[0.0], [-math.inf]]), 0, r"herd: 1 of 2 rows"),
    ],
)
def test_invalid_arguments_are_refused(features, count, message):
    with pytest.raises(ValueError, match=message):
        herding.herd(features, count)


# against continuum, where continuum is right


def with_replacement(units, count):
    """Returns the first `count` rows by iCaRL's rule, which may choose a row again."""
    mean, total, picks = units.mean(axis=0), np.zeros(units.shape[1]), []
    for step in range(1, count + 1):
        picks.append(int(np.linalg.norm(step * mean - total - units, axis=1).argmin()))
        total = total + units[picks[-1]]
    return picks


def test_continuum_agrees_as_long_as_its_rule_repeats_no_row():
    """Its herding passes over a row that it picks twice, but has counted it twice by then.

    So it is right for no zero row, unit-length features (it always normalises, adding 1e-8 to the length,
    and compares dot products) and up to the first repetition. 40 draws of 120 rows in 48 dimensions.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from continuum.rehearsal import herd_closest_to_barycenter

    compared = 0
    for seed in range(40):
        features = np.random.RandomState(seed).rand(120, 48)
        units = features / np.linalg.norm(features, axis=1, keepdims=True)
        picks = with_replacement(units, 40)
        count = next((k for k in range(40) if picks[k] in picks[:k]), 40)
        zeros = np.zeros(120, dtype=int)
        theirs, _, _ = herd_closest_to_barycenter(np.arange(120), zeros, zeros, features, count)
        assert herding.herd(torch.from_numpy(features), count).tolist() == theirs.tolist()
        compared += count
    assert compared > 400  # the domain is no formality
