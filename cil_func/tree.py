"""Functions of pytrees. No other file uses torch's pytree module.

A tree is a dict, list, tuple or NamedTuple of trees; its leaves are tensors. A leaf's path is the keys that lead to it,
joined by dots: `classifier.weight`. None is a tree without leaves here, while torch's module takes it for a leaf.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

Tree = Any


def map(function: Callable, tree: Tree, *rest: Tree) -> Tree:
    """Returns a tree of the results of `function`, applied to the corresponding leaves of trees of one structure.

    function(leaf, *leaves of the later trees) -> leaf. Dicts are matched by key, whatever their order. If the first
    tree has a leaf where another one has a subtree, `function` gets the subtree.
    Raises ValueError if a later tree lacks a node or a key of the first.
    """
    return pytree.tree_map(lambda leaf, *others: None if leaf is None else function(leaf, *others), tree, *rest)


def leaves(tree: Tree) -> list[torch.Tensor]:
    """Returns the leaves of a tree in the order in which `map` visits them."""
    return [leaf for leaf in pytree.tree_leaves(tree) if leaf is not None]


def unflatten(leaves: list[torch.Tensor], tree: Tree) -> Tree:
    """Returns a tree with these leaves and the structure of `tree`; it undoes `tree.leaves`.

    leaves: in the order of `tree.leaves`. `tree` must have no None. Raises ValueError for another number of leaves.
    """
    return pytree.tree_unflatten(leaves, pytree.tree_structure(tree))


def ordered(tree: Tree, like: Tree) -> Tree:
    """Returns the tree with the keys of its dicts in the order of those of `like`, a tree of the same structure."""
    return map(lambda _, leaf: leaf, like, tree)


def tensors_of(tree: Tree) -> tuple[list[torch.Tensor], Callable[[Sequence[torch.Tensor]], Tree]]:
    """Returns (the tensors in a tree, whose leaves may also be no tensors; a function that puts others in their place).

    The function takes as many tensors in the same order and returns the tree with these, and with its other leaves.
    """
    found, structure = pytree.tree_flatten(tree)
    places = [at for at, leaf in enumerate(found) if isinstance(leaf, torch.Tensor)]

    def put(tensors: Sequence[torch.Tensor]) -> Tree:
        others = list(found)
        for at, tensor in zip(places, tensors, strict=True):
            others[at] = tensor
        return pytree.tree_unflatten(others, structure)

    return [found[at] for at in places], put


def to_vector(tree: Tree, *, like: torch.Tensor | None = None, order: Tree = None) -> torch.Tensor:
    """Returns all numbers of the floating-point leaves as one vector (V,). These leaves must have one dtype.

    like: of whose dtype and device the vector (0,) of a tree without such leaves is; None: there must be some.
    order: a tree of the same structure, whose order of keys is taken; None: the tree's own.
    """
    given = tree if order is None else ordered(tree, order)
    parts = [leaf.reshape(-1) for leaf in leaves(given) if leaf.is_floating_point()]
    return like.new_zeros(0) if like is not None and not parts else torch.cat(parts)


def from_vector(vector: torch.Tensor, tree: Tree) -> Tree:
    """Returns a tree with the numbers of a vector (V,) and the structure and shapes of `tree`; it undoes `to_vector`.

    V: how many numbers the floating-point leaves of `tree` have. These leaves become views of the vector, of its dtype.
    Other leaves are those of `tree`. Raises RuntimeError for a vector of another length.
    """
    like = leaves(tree)
    shapes = [leaf.shape for leaf in like if leaf.is_floating_point()]
    parts = iter(vector.split([shape.numel() for shape in shapes]))
    return unflatten([next(parts).view(leaf.shape) if leaf.is_floating_point() else leaf for leaf in like], tree)


def write(tree: Tree, into: Tree) -> None:
    """Copies each leaf of a tree into the corresponding leaf of `into`, in place. No other function changes a tree.

    Leaves may differ in dtype, not in shape. They are copied type by type, since torch copies leaves of several types
    in one call one after the other, on a GPU by hundreds of kernels. Dicts are matched by key. A leaf that both trees
    share needs no copy. Raises ValueError for another number of leaves or other keys, RuntimeError for another shape.
    """
    by_type = defaultdict(list)
    if len(leaves(tree)) < len(leaves(into)):
        raise ValueError(f"write: {len(leaves(tree))} leaves; the tree to write into is longer, {len(leaves(into))}")
    # By key: a step with frozen parts returns them in another order.
    pairs: list[tuple[torch.Tensor, torch.Tensor]] = []
    map(lambda source, target: pairs.append((source, target)), tree, into)
    for source, target in pairs:
        if source is not target:
            by_type[source.dtype, target.dtype].append((source, target))
    for pairs in by_type.values():
        sources, targets = zip(*pairs, strict=True)
        torch._foreach_copy_(targets, sources)


def size(tree: Tree) -> int:
    """Returns how many numbers all leaves have together."""
    return sum(leaf.numel() for leaf in leaves(tree))


def cast(tree: Tree, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tree:
    """Returns the tree in another floating-point dtype or on another device.

    dtype: None: each leaf keeps its own; other leaves than floating-point ones keep theirs anyway. device: None: each
    leaf stays where it is.
    """
    return map(lambda leaf: leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else None), tree)


def to_paths(tree: Tree) -> dict[str, torch.Tensor]:
    """Returns a tree of nested dicts as one flat dict {path: leaf}, such as "classifier.weight".

    Raises ValueError for a key with a dot.
    """
    flat: dict[str, torch.Tensor] = {}
    for key, value in tree.items():
        if "." in key:
            raise ValueError(f"to_paths: the key {key!r} holds a dot, which separates keys")
        inner = to_paths(value) if isinstance(value, dict) else None
        flat |= {key: value} if inner is None else {f"{key}.{path}": leaf for path, leaf in inner.items()}
    return flat


def from_paths(flat: Mapping[str, Tree]) -> Tree:
    """Returns the tree of nested dicts that `to_paths` has made flat, without its empty dicts.

    Raises ValueError if one path is the beginning of another.
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

    chosen(path) -> bool. Returns two trees: one with the leaves for which it is true, and one with the others. To
    freeze parameters, differentiate with respect to the first tree, and `merge` both inside the loss.
    """
    flat = to_paths(tree)
    return (
        from_paths({path: leaf for path, leaf in flat.items() if chosen(path)}),
        from_paths({path: leaf for path, leaf in flat.items() if not chosen(path)}),
    )


def merge(first: Tree, second: Tree) -> Tree:
    """Returns the leaves of two trees of nested dicts as one tree; it undoes `partition`.

    Raises ValueError if both have a leaf at one path, or one has a leaf where the other has a subtree.
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


def overlay(tree: Tree, parts: Tree) -> Tree:
    """Returns a tree of nested dicts with the leaves that `parts` has in place of its own, in the order of `tree`.

    parts: has no path that `tree` lacks, as one of the trees that `partition` returns.
    """
    if not isinstance(tree, dict):
        return parts
    return {key: overlay(value, parts[key]) if key in parts else value for key, value in tree.items()}


def embed(small: torch.Tensor, large: torch.Tensor) -> torch.Tensor:
    """Returns a copy of `large` in which the entries that `small` has too, from the first of each axis on, are small's.

    large: a tensor with as many axes as `small`, each at least as long.
    """
    copy = large.clone()
    copy[tuple(slice(size) for size in small.shape)] = small
    return copy
