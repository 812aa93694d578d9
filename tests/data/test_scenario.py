"""Class orders and phases, against continuum where increments divide and arithmetic where they don't."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cil_func.data import scenario
from cil_func.errors import ConfigError, DataError

NAMES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu")


def order_of(kind, **changes):
    settings = {"num_classes": len(NAMES), "class_names": NAMES, **changes}
    return scenario.class_order(kind, **settings)


def targets_of(num_classes, per_class, seed=0):
    return np.random.RandomState(seed).permutation(np.repeat(np.arange(num_classes), per_class))


def test_canonical_is_the_fields_order():
    order = scenario.class_order("canonical", num_classes=100, class_names=[str(i) for i in range(100)])
    # numpy never changes what RandomState gives for a seed, so a literal may stand here
    assert order[:10] == [68, 56, 78, 8, 23, 84, 90, 65, 74, 76]
    assert sorted(order) == list(range(100)) and all(type(c) is int for c in order)
    assert order_of("canonical") == np.random.RandomState(1993).permutation(7).tolist()


def test_shuffled_follows_its_seed_alone():
    orders = [order_of("shuffled", order_seed=seed) for seed in range(5)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len({tuple(order) for order in orders}) == 5
    torch.manual_seed(5)
    assert order_of("shuffled", order_seed=3) == orders[3]
    assert order_of("sorted") == [0, 1, 2, 3, 4, 5, 6]


def test_a_list_may_hold_indices_and_names():
    assert order_of(["gnu", 0, "cat", 1, 3, "fox", 4]) == [6, 0, 2, 1, 3, 5, 4]


def test_a_name_may_be_given_in_either_unicode_form():
    names = ("S\u00e3o", "ant")
    order = scenario.class_order(["ant", "Sa\u0303o"], num_classes=2, class_names=names)
    assert order == [1, 0]


@pytest.mark.parametrize(
    ("num_classes", "initial", "sizes"),
    [
        (2, 0, [2]), (3, 0, [2, 1]), (5, 0, [2, 1, 1, 1]), (6, 0, [2, 2, 2]), (7, 0, [2, 2, 2, 1]),
        (11, 0, [3, 3, 3, 2]), (100, 0, [20] * 5), (100, 50, [50, 20, 20, 10]), (4, 1, [1, 1, 1, 1]),
    ],
)  # fmt: skip
def test_automatic_increments_are_a_fifth_and_two_at_first(num_classes, initial, sizes):
    assert scenario.increments(num_classes, initial_increment=initial, increment="auto") == sizes
    resolved = scenario.automatic(num_classes, initial, "auto")
    assert scenario.increments(num_classes, initial_increment=resolved[0], increment=resolved[1]) == sizes


def test_both_increments_that_do_not_fit_are_named():
    with pytest.raises(DataError) as caught:
        scenario.increments(7, initial_increment=8, increment=9)
    assert "data.increment = 9" in str(caught.value) and "data.initial_increment = 8" in str(caught.value)


@pytest.mark.parametrize(
    ("given_order", "part"),
    [
        ([0, 1, 2, 3, 4, 5], "leaves out 6 (gnu)"),
        ([0, 1, 2, 3, 4, 5, 5], "names twice 5 (fox) and leaves out 6 (gnu)"),
        ([0, 1, 2, 3, 4, 5, 6, "ant"], "names twice 0 (ant);"),
        ([0, 1, 2, 3, 4, 5, 7], "7; give names or indices from 0 to 6"),
        ([0, 1, 2, 3, 4, 5, -1], "-1; give names"),
        ([0, 1, 2, 3, 4, 5, True], "True; give names"),
        (["gnut", 9], "(1) data.class_order names 'gnut'"),
        (["gnut", 9], "(2) data.class_order holds 9"),
        (["gnu", "ant", "bee", "kat"], "'kat', which is no class; did you mean 'cat'?"),
        ([], "leaves out 0 (ant), 1 (bee), 2 (cat) and 4 more"),
    ],
)
def test_an_order_that_is_no_permutation_says_why(given_order, part):
    with pytest.raises(DataError) as caught:
        order_of(given_order)
    assert part in str(caught.value) and "\n" not in str(caught.value)


NUMBERS = tuple(sorted(map(str, range(12))))  # 0, 1, 10, 11, 2, ...: as folders are counted


def test_an_index_that_is_the_name_of_another_class_is_refused():
    settings = {"num_classes": 12, "class_names": NUMBERS}
    for order in (list(range(12)), list(range(11, -1, -1))):
        with pytest.raises(DataError) as caught:
            scenario.class_order(order, **settings)
        number = next(i for i in order if NUMBERS[i] != str(i))
        message = str(caught.value)
        expected = f"data.class_order holds {number}, which is the index of class {NUMBERS[number]!r} and the name of"
        assert message.startswith(expected) and 'give the names in quotes, as in ["0", "1", ...]' in message
    names = [str(number) for number in range(12)]
    assert [NUMBERS[index] for index in scenario.class_order(names, **settings)] == names
    with pytest.raises(DataError, match="holds 1, which is the index of class '2' and the name of another"):
        scenario.class_order([1, 0], num_classes=2, class_names=("01", "2"))
    with pytest.raises(DataError, match=r'holds 2020, which is no index and the name of a class; give .* \["2019"'):
        scenario.class_order([2020, 2019, 2021], num_classes=3, class_names=("2019", "2020", "2021"))


def test_indices_are_taken_where_no_name_says_otherwise():
    in_order = [f"{number:02}" for number in range(12)]
    for names in (in_order, [f"class{number}" for number in range(12)], in_order[:10] + ["ten", "x"]):
        order = list(range(11, -1, -1))
        assert scenario.class_order(order, num_classes=12, class_names=names) == order
        assert scenario.misleading_index(names) is None
    assert scenario.misleading_index(NUMBERS) == 2


def test_an_unknown_word_is_a_configuration_error():
    with pytest.raises(ConfigError, match="canonical, shuffled, sorted"):
        order_of("cannonical")


@pytest.mark.parametrize(("initial", "increment"), [(0, 2), (4, 3), (2, 4), (10, 1), (1, 1)])
def test_phases_are_continuums_where_increments_divide(initial, increment):
    from continuum import ClassIncremental
    from continuum.datasets import InMemoryDataset

    order = np.random.RandomState(1993).permutation(10).tolist()
    train, test = targets_of(10, 6), targets_of(10, 2, seed=1)
    built = scenario.build(train, test, order, initial_increment=initial, increment=increment)
    splits = ((train, "train_rows", built.train_labels), (test, "test_rows", built.test_labels))
    for targets, name, labels in splits:
        source = InMemoryDataset(np.arange(len(targets)), targets)
        theirs = ClassIncremental(source, increment=increment, initial_increment=initial, class_order=order)
        assert len(theirs) == len(built.phases)
        for task, phase in zip(theirs, built.phases, strict=True):
            rows, task_labels, _ = task.get_raw_samples()
            assert getattr(phase, name).tolist() == rows.tolist()
            assert labels[getattr(phase, name)].tolist() == task_labels.tolist()


@pytest.mark.parametrize(("initial", "sizes"), [(0, [1, 2, 3, 4]), (0, [10]), (4, [1, 5]), (5, (2, 2, 1))])
def test_phases_of_listed_sizes_are_continuums(initial, sizes):
    """continuum's list holds the first phase too; initial_increment stands before ours."""
    from continuum import ClassIncremental
    from continuum.datasets import InMemoryDataset

    order = np.random.RandomState(1993).permutation(10).tolist()
    train, test = targets_of(10, 6), targets_of(10, 2, seed=1)
    built = scenario.build(train, test, order, initial_increment=initial, increment=sizes)
    source = InMemoryDataset(np.arange(len(train)), train)
    whole = [initial, *sizes] if initial else list(sizes)
    theirs = ClassIncremental(source, increment=whole, class_order=order)
    assert len(theirs) == len(built.phases)
    for task, phase in zip(theirs, built.phases, strict=True):
        rows, labels, _ = task.get_raw_samples()
        assert phase.train_rows.tolist() == rows.tolist()
        assert built.train_labels[phase.train_rows].tolist() == labels.tolist()


LISTS = [
    (0, [10, 20, 5], 40, "data.increment = [10, 20, 5]: 35 classes in all; the data has 40, give 5 more"),
    (0, [10, 20, 5], 34, "data.increment = [10, 20, 5]: 35 classes in all; the data has 34, give 1 fewer"),
    (50, [20, 40], 100,
     "data.initial_increment = 50 and data.increment = [20, 40]: 110 classes in all; the data has 100, give 10 fewer"),
    (0, [], 7, "data.increment = []: 0 classes in all; the data has 7, give 7 more"),
    (0, [8, -1], 7, "data.increment = [8, -1]: 7 classes in all; give sizes >= 1"),
    (0, [1] * 90, 100, "data.increment = a list of 90 sizes: 90 classes in all; the data has 100, give 10 more"),
]  # fmt: skip


@pytest.mark.parametrize(("initial", "sizes", "num_classes", "line"), LISTS)
def test_listed_sizes_that_do_not_add_up_are_refused(initial, sizes, num_classes, line):
    with pytest.raises(DataError) as caught:
        scenario.increments(num_classes, initial_increment=initial, increment=sizes)
    assert str(caught.value) == line


def test_what_automatic_has_no_word_for_comes_back():
    assert scenario.automatic(7, 2, (3, 2)) == (2, (3, 2)) and scenario.automatic(7, 0, 3) == (0, 3)


def test_a_remainder_makes_a_smaller_last_phase():
    train, test = targets_of(7, 5), targets_of(7, 2)
    order = [6, 5, 4, 3, 2, 1, 0]
    built = scenario.build(train, test, order, initial_increment=2, increment=3)
    assert built.class_order == (6, 5, 4, 3, 2, 1, 0)
    assert [phase.classes for phase in built.phases] == [(6, 5), (4, 3, 2), (1, 0)]
    assert [phase.index for phase in built.phases] == [0, 1, 2]
    assert built.train_labels.tolist() == [6 - target for target in train]
    for phase in built.phases:
        expected = [row for row, target in enumerate(train) if target in phase.classes]
        assert phase.train_rows.tolist() == expected and phase.train_rows.dtype == torch.int64


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.data())
def test_every_row_is_in_one_phase_and_labels_are_positions(num_classes, data):
    increment = data.draw(st.integers(1, num_classes))
    initial = data.draw(st.integers(0, num_classes))
    order = data.draw(st.permutations(range(num_classes)))
    train, test = targets_of(num_classes, 3), targets_of(num_classes, 1)
    built = scenario.build(train, test, order, initial_increment=initial, increment=increment)
    first, *later = [len(phase.classes) for phase in built.phases]
    assert first == (initial or increment)
    assert all(count == increment for count in later[:-1]) and sum([first, *later]) == num_classes
    assert sum((phase.classes for phase in built.phases), ()) == tuple(order)
    for name, labels, targets in (
        ("train_rows", built.train_labels, train),
        ("test_rows", built.test_labels, test),
    ):
        rows = torch.cat([getattr(phase, name) for phase in built.phases])
        assert sorted(rows.tolist()) == list(range(len(targets)))
        assert [order.index(target) for target in targets] == labels.tolist()


@pytest.mark.parametrize(
    ("initial", "increment", "part"),
    [
        (0, 8, "data.increment = 8; the data has 7 classes"),
        (8, 1, "data.initial_increment = 8; the data has 7 classes"),
        (0, 0, "data.increment = 0"),
        (-1, 2, "data.initial_increment = -1"),
    ],
)
def test_increments_that_do_not_fit_are_refused(initial, increment, part):
    train, test = targets_of(7, 2), targets_of(7, 1)
    with pytest.raises(DataError, match=part):
        scenario.build(train, test, range(7), initial_increment=initial, increment=increment)


def test_a_class_without_images_is_refused():
    """continuum would put labels with gaps into phase 0."""
    train = targets_of(7, 2)
    with pytest.raises(DataError, match="test images don't cover the 7 classes: see class 6"):
        scenario.build(train, targets_of(6, 2), range(7), initial_increment=0, increment=1)
    with pytest.raises(DataError, match="training images don't cover the 7 classes: see class 3"):
        scenario.build(train[train != 3], train, range(7), initial_increment=0, increment=1)
