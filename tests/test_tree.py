from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from cil_func import tree

KEYS = st.text("abc_0", min_size=1, max_size=3)
TREES = st.recursive(
    st.integers(0, 99).map(torch.tensor),
    lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=3),
    max_leaves=8,
).filter(lambda value: isinstance(value, dict))


def numbers(nested):
    """Returns the tree with ints as leaves, so that == compares it."""
    return tree.map(int, nested)


@given(TREES)
def test_paths_come_back(nested):
    flat = tree.to_paths(nested)
    assert numbers(tree.from_paths(flat)) == numbers(nested)
    assert len(flat) == len(tree.leaves(nested)) == tree.size(nested)


@given(TREES, st.sets(st.integers(0, 7)))
def test_partition_splits_and_merge_joins(nested, places):
    paths = list(tree.to_paths(nested))
    wanted = {paths[i] for i in places if i < len(paths)}
    chosen, others = tree.partition(nested, wanted.__contains__)
    assert set(tree.to_paths(chosen)) == wanted
    assert set(tree.to_paths(others)) == set(paths) - wanted
    assert numbers(tree.merge(chosen, others)) == numbers(tree.merge(others, chosen)) == numbers(nested)


def test_partition_leaves_out_dicts_without_leaves_and_refuses_dots():
    first, second = tree.partition({"a": {"b": torch.tensor(1), "c": {}}, "d": {}}, "a.b".__eq__)
    assert (numbers(first), second) == ({"a": {"b": 1}}, {})
    with pytest.raises(ValueError, match=r"'a\.b' holds a dot"):
        tree.partition({"x": {"a.b": torch.ones(1)}}, bool)


@given(TREES)
def test_unflatten_is_the_inverse_of_leaves(nested):
    doubled = tree.unflatten([2 * leaf for leaf in tree.leaves(nested)], nested)
    assert numbers(doubled) == tree.map(lambda leaf: 2 * int(leaf), nested)
    with pytest.raises(ValueError):
        tree.unflatten([torch.zeros(())] * (len(tree.leaves(nested)) + 1), nested)


def test_ordered_takes_the_order_of_keys_from_the_other_tree():
    turned = tree.ordered({"b": {"d": torch.tensor(1), "c": torch.tensor(2)}, "a": torch.tensor(3)},
                          {"a": torch.tensor(0), "b": {"c": torch.tensor(0), "d": torch.tensor(0)}})  # fmt: skip
    assert {path: int(leaf) for path, leaf in tree.to_paths(turned).items()} == {"a": 3, "b.c": 2, "b.d": 1}
    assert list(tree.to_paths(turned)) == ["a", "b.c", "b.d"]


def test_a_tree_without_leaves_is_an_empty_vector_like_another():
    for nothing in ({}, {"counts": torch.tensor([1, 2])}):
        vector = tree.to_vector(nothing, like=torch.zeros(3, dtype=torch.float64))
        assert vector.shape == (0,) and vector.dtype == torch.float64
        assert list(tree.from_vector(vector, nothing)) == list(nothing)


def test_none_is_a_tree_without_leaves():
    nested = (None, {"a": torch.tensor(1), "b": None})
    assert tree.map(lambda leaf: leaf + 1, nested) == (None, {"a": 2, "b": None})
    assert tree.map(torch.add, nested, nested) == (None, {"a": 2, "b": None})
    assert tree.leaves(nested) == [1] and tree.size(nested) == 1 and tree.leaves(None) == []


def test_a_path_is_the_keys_joined_by_dots():
    leaf = torch.ones(2)
    assert tree.to_paths({"classifier": {"weight": leaf}}) == {"classifier.weight": leaf}


@pytest.mark.parametrize("order", [("a", "a.b"), ("a.b", "a"), ("a.b", "a.b.c"), ("a.b.c", "a.b")])
def test_a_leaf_cannot_hold_leaves(order):
    # the second order once dropped a leaf without a word
    with pytest.raises(ValueError, match="from_paths"):
        tree.from_paths({path: torch.ones(1) for path in order})


def test_a_dot_in_a_key_is_refused():
    with pytest.raises(ValueError, match=r"a\.b"):
        tree.to_paths({"x": {"a.b": torch.ones(1)}})


def test_merge_refuses_a_leaf_that_both_hold_and_changes_nothing():
    first, second = {"a": {"x": torch.ones(1)}}, {"a": {"y": torch.ones(1)}}
    assert set(tree.merge(first, second)["a"]) == {"x", "y"}
    assert set(first["a"]) == {"x"} and set(second["a"]) == {"y"}
    with pytest.raises(ValueError, match="'x'"):
        tree.merge(first, first)
    with pytest.raises(ValueError, match="'a'"):
        tree.merge(first, {"a": torch.ones(1)})


class Pair(NamedTuple):
    left: object
    right: object


NODES = st.recursive(
    st.integers(0, 99).map(torch.tensor) | st.integers(0, 99),  # a leaf may be no tensor
    lambda inner: st.dictionaries(KEYS, inner, max_size=3) | st.lists(inner, max_size=3)
    | st.lists(inner, max_size=3).map(tuple) | st.builds(Pair, inner, inner),
    max_leaves=8,
)  # fmt: skip


@given(NODES)
def test_trees_are_those_of_torchs_pytree_module(nested):
    """In structure, types of nodes, leaves and their order."""
    pytree = torch.utils._pytree
    doubled = tree.map(lambda leaf: 2 * int(leaf), nested)
    assert repr(doubled) == repr(pytree.tree_map(lambda leaf: 2 * int(leaf), nested))
    assert [int(leaf) for leaf in tree.leaves(nested)] == [int(leaf) for leaf in pytree.tree_leaves(nested)]
    assert repr(tree.map(lambda first, second: (int(first), second), nested, doubled)) == repr(
        pytree.tree_map(lambda first, second: (int(first), second), nested, doubled)
    )
    assert repr(tree.unflatten(range(len(tree.leaves(nested))), nested)) == repr(
        pytree.tree_unflatten(range(len(tree.leaves(nested))), pytree.tree_structure(nested))
    )


def test_map_matches_dicts_by_key_and_refuses_other_structures():
    first = {"a": torch.tensor(1), "b": [torch.tensor(2)]}
    second = {"b": [torch.tensor(20)], "a": torch.tensor(10)}
    assert numbers(tree.map(torch.add, first, second)) == {"a": 11, "b": [22]}
    one = torch.tensor(1)
    for other, words in (
        ({"a": one}, r"map: dict of \['a', 'b'\] in one tree, dict of \['a'\] in another"),
        ({"a": one, "c": [one]}, r"another has no 'b'"),
        ([1, 2], "tree, list of 2 in another"),
        (one, "tree, Tensor in another"),
        ({"a": one, "b": [one, one]}, "map: list of 1 in one tree, list of 2 in another"),
        ({"a": one, "b": (one,)}, "tree, tuple of 1 in another"),
        ({"a": one, "b": one}, "tree, Tensor in another"),
    ):
        with pytest.raises(ValueError, match=words):
            tree.map(torch.add, first, other)
    assert tree.map(lambda leaf, other: other, one, first) is first  # a subtree beside a leaf


def test_an_error_of_the_function_is_no_error_of_the_structure():
    def looked_up(leaf, other):
        return {}["missing"]

    with pytest.raises(KeyError, match="missing"):
        tree.map(looked_up, {"a": torch.tensor(1)}, {"a": torch.tensor(1)})


def test_size_counts_numbers():
    assert tree.size({"weight": torch.ones(3, 4), "more": (torch.ones(5), torch.tensor(1.0))}) == 18  # 12+5+1
    assert tree.size({}) == 0


def test_cast_changes_floating_leaves_and_no_others():
    nested = {"weight": torch.ones(2), "steps": torch.tensor(3)}
    wide = tree.cast(nested, dtype=torch.float64)
    assert (wide["weight"].dtype, wide["steps"].dtype) == (torch.float64, torch.int64)
    assert nested["weight"].dtype == torch.float32
    moved = tree.cast(nested, device="meta")
    assert {leaf.device.type for leaf in tree.leaves(moved)} == {"meta"}
    assert moved["weight"].dtype == torch.float32


class Copies(TorchDispatchMode):
    """Notes the dtypes of the leaves of each copy."""

    def __init__(self):
        super().__init__()
        self.types = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "copy" in str(function):
            self.types.append([leaf.dtype for leaf in args[1]])
        return function(*args, **(kwargs or {}))


def test_write_changes_the_tensors_themselves_in_one_copy_a_type():
    into = {"a": torch.zeros(2), "b": (torch.zeros((), dtype=torch.int64), None), "c": torch.zeros(1, 3)}
    held = tree.leaves(into)
    values = {"a": torch.tensor([1.0, 2.0]), "b": (torch.tensor(3), None), "c": torch.tensor([[4.0, 5.0, 6.0]])}
    with Copies() as copies:
        tree.write(values, into=into)
    assert [leaf.tolist() for leaf in held] == [[1.0, 2.0], 3, [[4.0, 5.0, 6.0]]]
    assert copies.types == [[torch.float32, torch.float32], [torch.int64]]


def test_write_refuses_what_does_not_fit():
    into = {"a": torch.zeros(2), "b": torch.zeros(3)}
    with pytest.raises(ValueError, match="longer"):
        tree.write({"a": torch.ones(2)}, into=into)
    for wrong in (torch.ones(2), torch.ones(1), torch.tensor(1.0), torch.ones(1, 3)):  # torch would broadcast some
        with pytest.raises(RuntimeError, match=r"a leaf \(.*\), to be written into \(3,\)"):
            tree.write({"a": torch.ones(2), "b": wrong}, into=into)
    assert not tree.to_vector(into).any()
