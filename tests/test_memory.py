import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cil_func import herding, memory

LINE = torch.tensor([[0.0], [1.0], [2.0], [9.0]])


def rows_of(**lists):
    return {int(label[1:]): torch.tensor(rows, dtype=torch.int64) for label, rows in lists.items()}


def lists(value):
    return {label: rows.tolist() for label, rows in value.items()}


# quota


@pytest.mark.parametrize(
    "classes, size, fixed, expected",
    [(50, 2000, 0, 40), (60, 2000, 0, 33), (100, 2000, 20, 20), (3, 2, 0, 0), (1, 0, 0, 0), (7, 0, 5, 5)],
)
def test_quota_by_hand(classes, size, fixed, expected):
    assert memory.quota(classes, size=size, fixed_per_class=fixed) == expected


@pytest.mark.parametrize("arguments", [(0, 10, 0), (-1, 10, 0), (1, -1, 0), (1, 10, -1)])
def test_quota_refuses(arguments):
    classes, size, fixed = arguments
    with pytest.raises(ValueError, match=f"quota: classes_seen={classes}, size={size}"):
        memory.quota(classes, size=size, fixed_per_class=fixed)


# choose


def test_closest_by_hand():
    # directions 0, 90 and 45 degrees, lengths 1, 9, 5: the mean of the unit rows lies at 45, so row 2 is
    # nearest, 0 and 1 tie and keep their order
    features = torch.tensor([[1.0, 0.0], [0.0, 9.0], [5.0, 5.0]])
    assert memory.choose(features, 3, selection="closest", key=0).tolist() == [2, 0, 1]
    # unit rows of a line are 0 or 1: mean 3/4, rows 1, 2, 3 are nearer than row 0
    assert memory.choose(LINE, 2, selection="closest", key=0).tolist() == [1, 2]


def test_closest_agrees_with_continuum_on_unit_rows():
    # continuum's "cluster" doesn't normalise, so it is given rows of length 1; no ties in random rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from continuum.rehearsal import herd_closest_to_cluster

    for seed in range(10):
        features = np.random.RandomState(seed).randn(60, 8)
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        zeros = np.zeros(60, dtype=int)
        theirs, _, _ = herd_closest_to_cluster(np.arange(60), zeros, zeros, features, 25)
        ours = memory.choose(torch.from_numpy(features), 25, selection="closest", key=0)
        assert ours.tolist() == theirs.tolist()


def test_herding_is_herd():
    features = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    chosen = memory.choose(features, 10, selection="herding", key=1)
    assert torch.equal(chosen, herding.herd(features, 10))


def test_random_depends_on_the_key_alone_and_is_even():
    features = torch.zeros(10, 2)

    def draw(key):
        return memory.choose(features, 3, selection="random", key=key).tolist()

    assert draw(5) == draw(5)
    assert memory.choose(features + 7, 3, selection="random", key=5).tolist() == draw(5)
    counts = np.bincount(np.concatenate([draw(key) for key in range(2000)]), minlength=10)
    # each row 2000 x 3/10 = 600 times; sigma is sqrt(2000 x 0.3 x 0.7) = 20.5
    assert (abs(counts - 600) < 5 * 20.5).all()


@pytest.mark.parametrize("selection", memory.SELECTIONS)
@pytest.mark.parametrize("count", [0, 1, 3, 4, 100])
def test_a_small_class_gives_all_its_rows_by_rank_without_repetition(selection, count):
    chosen = memory.choose(LINE, count, selection=selection, key=3)
    assert chosen.dtype == torch.int64 and chosen.device.type == "cpu"
    assert len(set(chosen.tolist())) == len(chosen) == min(count, 4)
    # what is chosen first stays first: a smaller quota later is a prefix
    assert chosen.tolist() == memory.choose(LINE, 4, selection=selection, key=3).tolist()[:count]
    assert memory.choose(LINE[:0], count, selection=selection, key=3).tolist() == []


@pytest.mark.parametrize(
    "features, count, selection, message",
    [
        (LINE, 1, "herd", r"choose: selection='herd'; give one of herding, random, closest"),
        (LINE, -1, "random", r"choose: count=-1"),
        (LINE[0], 1, "closest", r"choose: features \(1,\)"),
        (LINE / 0, 1, "random", r"choose: 4 of 4 rows"),
    ],
)
def test_choose_refuses(features, count, selection, message):
    with pytest.raises(ValueError, match=message):
        memory.choose(features, count, selection=selection, key=0)


def test_a_key_is_needed_for_random_selection_alone():
    """Without a selection it is herding."""
    assert memory.choose(LINE, 3).tolist() == memory.choose(LINE, 3, selection="herding", key=5).tolist()
    assert len(memory.choose(LINE, 3, selection="closest")) == 3
    with pytest.raises(ValueError, match='choose: selection="random" without a key'):
        memory.choose(LINE, 1, selection="random")


# bookkeeping


def test_trim_update_rows_size_by_hand():
    old = rows_of(c7=[30, 10, 20], c2=[5], c0=[])
    assert lists(memory.trim(old, 2)) == {7: [30, 10], 2: [5], 0: []}
    assert lists(memory.trim(old, 0)) == {7: [], 2: [], 0: []}
    grown = memory.update(old, rows_of(c1=[41, 40, 42]), 2)
    assert lists(grown) == {7: [30, 10], 2: [5], 0: [], 1: [41, 40]}
    assert lists(old) == {7: [30, 10, 20], 2: [5], 0: []}  # a value: not changed
    assert memory.rows(grown).tolist() == [41, 40, 5, 30, 10]  # ascending label, within it by rank
    assert memory.size(grown) == 5


def test_an_empty_memory_is_a_memory():
    assert memory.rows({}).shape == (0,) and memory.rows({}).dtype == torch.int64
    assert memory.size({}) == 0
    assert memory.update({}, {}, 3) == {}


def test_bookkeeping_refuses():
    with pytest.raises(ValueError, match=r"trim: quota=-1"):
        memory.trim({}, -1)
    with pytest.raises(ValueError, match=r"update: classes \[2\]"):
        memory.update(rows_of(c2=[1]), rows_of(c2=[2], c3=[3]), 2)


@settings(deadline=None, max_examples=100)
@given(
    phases=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=5),
    budget=st.integers(0, 30),
    fixed=st.integers(0, 4),
    selection=st.sampled_from(memory.SELECTIONS),
)
def test_no_sequence_of_phases_exceeds_the_budget(phases, budget, fixed, selection):
    """phases: for each, the number of images of each new class. Row numbers are unique over the run."""
    kept, chosen_first, images, next_row = {}, {}, {}, 0
    for phase in phases:
        quota = memory.quota(len(kept) + len(phase), size=budget, fixed_per_class=fixed)
        chosen = {}
        for num_images in phase:
            label = len(kept) + len(chosen)
            own = torch.arange(next_row, next_row + num_images)
            next_row += num_images
            features = (own[:, None] * torch.tensor([3, 7]) % 5).float()
            chosen[label] = own[memory.choose(features, quota, selection=selection, key=label)]
            images[label] = num_images
        kept = memory.update(kept, chosen, quota)
        chosen_first |= lists(chosen)
        assert fixed or memory.size(kept) <= budget
        assert sorted(kept) == list(range(len(images)))
        for label, rows in lists(kept).items():
            assert len(rows) == min(quota, images[label])  # full quotas: no exemplar is given away
            assert rows == chosen_first[label][: len(rows)]  # a prefix of the first choice, by rank
        flat = memory.rows(kept).tolist()
        assert len(flat) == len(set(flat)) == memory.size(kept)


def test_of_equally_near_images_the_lowest_row_comes_first_whatever_rounds():
    """Rows that mirror each other are equally far from a mean on the axis; sums of squares differ in the last bit."""
    for key in range(40):
        half = torch.randn(5, 7, generator=torch.Generator().manual_seed(key), dtype=torch.float64)
        both = torch.stack([half, half.flip(1)], dim=1).reshape(10, 7)  # rows 2 i and 2 i + 1 are mirror images
        found = memory.choose(both, 10, selection="closest").reshape(5, 2)
        assert torch.equal(found[:, 0] + 1, found[:, 1]) and (found[:, 0] % 2 == 0).all()
