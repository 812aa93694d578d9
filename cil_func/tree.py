"""Algebra of pytrees: the only file that touches torch's pytree module.

A tree is a dict, list, tuple or NamedTuple of trees, whose leaves are tensors. A leaf's path is the
keys that lead to it, joined by dots: `classifier.weight`. None is a tree without leaves, which torch's module
takes for a leaf.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

Tree = Any


def map(function: Callable, tree: Tree, *rest: Tree) -> Tree:
    """Applies `function` leaf by leaf to trees of one structure.

    Raises ValueError where a later tree lacks a node or a key of the first. Dicts are matched by key,
    whatever their order; where the first has a leaf and another a subtree, `function` gets the subtree.
    """
    return pytree.tree_map(lambda leaf, *others: None if leaf is None else function(leaf, *others), tree, *rest)


def leaves(tree: Tree) -> list[torch.Tensor]:
    """The leaves, in the order of `map`."""
    return [leaf for leaf in pytree.tree_leaves(tree) if leaf is not None]


def unflatten(leaves: list[torch.Tensor], tree: Tree) -> Tree:
    """The inverse of `leaves`: a tree of the structure of `tree`, which has no None.

    Raises ValueError for another number of leaves.
    """
    return pytree.tree_unflatten(leaves, pytree.tree_structure(tree))


def to_vector(tree: Tree) -> torch.Tensor:
    """All numbers of the floating-point leaves, which have one dtype, in one vector (V,): a flat buffer."""
    return torch.cat([leaf.reshape(-1) for leaf in leaves(tree) if leaf.is_floating_point()])


def from_vector(vector: torch.Tensor, tree: Tree) -> Tree:
    """The inverse of `to_vector`: a tree of the structure and shapes of `tree`, which keeps its integer leaves.

    Its leaves are views of the vector. Raises RuntimeError for a vector of another length.
    """
    like = leaves(tree)
    shapes = [leaf.shape for leaf in like if leaf.is_floating_point()]
    parts = iter(vector.split([shape.numel() for shape in shapes]))
    return unflatten([next(parts).view(leaf.shape) if leaf.is_floating_point() else leaf for leaf in like], tree)


def write(tree: Tree, into: Tree) -> None:
    """Copies each leaf into the leaf at its place in `into`, which changes; no other function here works in place.

    Type by type: leaves of several types in one call torch copies one by one, on a GPU by hundreds of kernels. Raises
    ValueError for another number of leaves, RuntimeError for another shape.
    """
    by_type = defaultdict(list)
    for source, target in zip(leaves(tree), leaves(into), strict=True):
        by_type[source.dtype, target.dtype].append((source, target))
    for pairs in by_type.values():
        sources, targets = zip(*pairs, strict=True)
        torch._foreach_copy_(targets, sources)


def size(tree: Tree) -> int:
    """How many numbers the tree holds."""
    return sum(leaf.numel() for leaf in leaves(tree))


def cast(tree: Tree, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tree:
    """The same tree in another floating-point dtype or on another device; integer leaves keep their dtype."""
    return map(lambda leaf: leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else None), tree)


def to_paths(tree: Tree) -> dict[str, torch.Tensor]:
    """A tree of nested dicts as one flat dict {path: leaf}. Raises ValueError for a key that holds a dot."""
    flat = {}
    for key, value in tree.items():
        if "." in key:
            raise ValueError(f"to_paths: the key {key!r} holds a dot, which separates keys")
        inner = to_paths(value) if isinstance(value, dict) else None
        flat |= {key: value} if inner is None else {f"{key}.{path}": leaf for path, leaf in inner.items()}
    return flat


def from_paths(flat: dict[str, torch.Tensor]) -> Tree:
    """The inverse of `to_paths` (empty dicts, which have no path, do not come back).

    Raises ValueError where one path is the start of another: a leaf cannot hold leaves.
    """
    tree: dict = {}
    for path, leaf in flat.items():
        *parents, last = path.split(".")
        node = tree
        for key in parents:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise ValueError(f"from_paths: {path!r} lies below a leaf")
        if last in node:
            raise ValueError(f"from_paths: {path!r} is a leaf and the start of another path")
        node[last] = leaf
    return tree


def partition(tree: Tree, chosen: Callable[[str], bool]) -> tuple[Tree, Tree]:
    """Splits a tree of nested dicts in two by the paths of its leaves.

    Returns (the leaves where `chosen(path)` is true, the others), each a tree that lacks the other's
    leaves. Freezing is this: differentiate with respect to the first part, `merge` inside the loss.
    """
    flat = to_paths(tree)
    return (
        from_paths({path: leaf for path, leaf in flat.items() if chosen(path)}),
        from_paths({path: leaf for path, leaf in flat.items() if not chosen(path)}),
    )


def merge(first: Tree, second: Tree) -> Tree:
    """Joins two trees of nested dicts that share no leaf: the inverse of `partition`.

    Raises ValueError where both hold the same leaf.
    """
    merged = dict(first)
    for key, value in second.items():
        if key not in merged:
            merged[key] = value
        elif isinstance(value, dict) and isinstance(merged[key], dict):
            merged[key] = merge(merged[key], value)
        else:
            raise ValueError(f"merge: both trees hold {key!r}")
    return merged
