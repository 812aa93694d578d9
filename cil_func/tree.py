"""Functions of pytrees: trees of tensors.

A tree is a dict, list, tuple or NamedTuple of trees; its leaves are tensors. A leaf's path is the keys that lead to it,
joined by dots: `classifier.weight`. None is a tree without leaves.

Plain recursion, and not torch's pytree module: torch.compile traces a step's Python instruction by instruction at each
start of a run, and that module's were three fifths of them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

Tree = Any


def map(function: Callable, tree: Tree, *rest: Tree) -> Tree:
    """Returns a tree of the results of `function`, applied to the corresponding leaves of trees of one structure.

    function(leaf, *leaves of the later trees) -> leaf. Dicts are matched by key, whatever their order. If the first
    tree has a leaf where another one has a subtree, `function` gets the subtree.
    Raises ValueError if a later tree lacks a node or a key of the first.
    """
    if isinstance(tree, torch.Tensor):  # first, since most calls are for a leaf
        return function(tree, *rest)
    if isinstance(tree, dict):
        if not rest:
            return {key: map(function, part) for key, part in tree.items()}
        return {key: map(function, *parts) for key, parts in _by_key(tree, rest).items()}
    if isinstance(tree, (list, tuple)):
        for other in rest:
            if type(other) is not type(tree) or len(other) != len(tree):
                raise ValueError(f"map: {_name(tree)} in one tree, {_name(other)} in another")
        parts = [map(function, *parts) for parts in zip(tree, *rest, strict=True)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return None if tree is None else function(tree, *rest)


def _by_key(tree: dict, rest: Sequence[Tree]) -> dict[Any, list[Tree]]:
    """Returns {key: the part of each tree under this key}. Raises ValueError if one is no dict of the same keys."""
    for other in rest:
        if not isinstance(other, dict) or len(other) != len(tree):
            raise ValueError(f"map: {_name(tree)} in one tree, {_name(other)} in another")
    try:
        return {key: [part, *[other[key] for other in rest]] for key, part in tree.items()}
    except KeyError as error:
        raise ValueError(f"map: {_name(tree)} in one tree, another has no {error}") from None


def _name(tree: Tree) -> str:
    """Returns what a message calls a node: its type, and the keys of a dict or the length of a sequence."""
    inside = list(tree) if isinstance(tree, dict) else len(tree) if isinstance(tree, (list, tuple)) else None
    return type(tree).__name__ + ("" if inside is None else f" of {inside}")


def leaves(tree: Tree) -> list[torch.Tensor]:
    """Returns the leaves of a tree in the order in which `map` visits them."""
    found: list[torch.Tensor] = []
    _collect([tree], found)
    return found


def _collect(trees: Iterable[Tree], found: list) -> None:
    """Appends the leaves of trees to `found`."""
    for tree in trees:
        if isinstance(tree, torch.Tensor):
            found.append(tree)
        elif isinstance(tree, dict):
            _collect(tree.values(), found)
        elif isinstance(tree, (list, tuple)):
            _collect(tree, found)
        elif tree is not None:
            found.append(tree)


def unflatten(values: Sequence[torch.Tensor], tree: Tree) -> Tree:
    """Returns a tree with these leaves and the structure of `tree`; it undoes `tree.leaves`.

    values: in the order of `tree.leaves`. Raises ValueError for another number of leaves.
    """
    if len(values) != len(leaves(tree)):
        raise ValueError(f"unflatten: {len(values)} leaves for a tree of {len(leaves(tree))}")
    following = iter(values)
    return map(lambda _: next(following), tree)


def ordered(tree: Tree, like: Tree) -> Tree:
    """Returns the tree with the keys of its dicts in the order of those of `like`, a tree of the same structure."""
    return map(lambda _, leaf: leaf, like, tree)


def to_vector(tree: Tree, *, like: torch.Tensor | None = None, order: Tree = None) -> torch.Tensor:
    """Returns all numbers of the floating-point leaves as one vector (V,). These leaves must have one dtype.

    like: of whose dtype and device the vector (0,) of a tree without such leaves is; None: there must be some.
    order: a tree of the same structure, whose order of keys is taken; None: the tree's own.
    """
    given = tree if order is None else ordered(tree, order)
    parts = [leaf if leaf.ndim == 1 else leaf.reshape(-1) for leaf in leaves(given) if leaf.is_floating_point()]
    return like.new_zeros(0) if like is not None and not parts else torch.cat(parts)


def from_vector(vector: torch.Tensor, tree: Tree) -> Tree:
    """Returns a tree with the numbers of a vector (V,) and the structure and shapes of `tree`; it undoes `to_vector`.

    V: how many numbers the floating-point leaves of `tree` have. These leaves become views of the vector, of its dtype.
    Other leaves are those of `tree`. Raises RuntimeError for a vector of another length.
    """
    parts = iter(vector.split([leaf.numel() for leaf in leaves(tree) if leaf.is_floating_point()]))

    def part(leaf: torch.Tensor) -> torch.Tensor:
        if not leaf.is_floating_point():
            return leaf
        return next(parts) if leaf.ndim == 1 else next(parts).view(leaf.shape)

    return map(part, tree)


def write(tree: Tree, into: Tree) -> None:
    """Copies each leaf of a tree into the corresponding leaf of `into`, in place. No other function changes a tree.

    Leaves may differ in dtype, not in shape. They are copied type by type, since torch copies leaves of several types
    in one call one after the other, on a GPU by hundreds of kernels. Dicts are matched by key. A leaf that both trees
    share needs no copy. Raises ValueError for another number of leaves or other keys, RuntimeError for another shape.
    """
    by_type = defaultdict(list)
    if len(leaves(tree)) < len(leaves(into)):
        raise ValueError(f"write: {len(leaves(tree))} leaves; the tree to write into is longer, {len(leaves(into))}")

    def note(source: torch.Tensor, target: torch.Tensor) -> None:
        if source.shape != target.shape:  # torch would broadcast
            raise RuntimeError(f"write: a leaf {tuple(source.shape)}, to be written into {tuple(target.shape)}")
        if source is not target:
            by_type[source.dtype, target.dtype].append((source, target))

    map(note, tree, into)  # by key: a step with frozen parts returns them in another order
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


def partition(tree: Tree, chosen: Callable[[str], bool], above: str = "") -> tuple[Tree, Tree]:
    """Splits a tree of nested dicts in two by the paths of its leaves.

    chosen(path) -> bool. Returns two trees: one with the leaves for which it is true, and one with the others. To
    freeze parameters, differentiate with respect to the first tree, and `merge` both inside the loss.
    Neither has a dict without leaves. above: what stands before each path, such as "backbone.".
    Raises ValueError for a key with a dot.
    """
    first: dict = {}
    second: dict = {}
    for key, value in tree.items():
        if "." in key:
            raise ValueError(f"partition: the key {key!r} holds a dot, which separates keys")
        if not isinstance(value, dict):
            (first if chosen(above + key) else second)[key] = value
            continue
        inner, others = partition(value, chosen, f"{above}{key}.")
        if inner:
            first[key] = inner
        if others:
            second[key] = others
    return first, second


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
    """Returns a copy of `large` that begins with `small` along each axis. small: with as many axes, none longer."""
    copy = large.clone()
    copy[tuple(slice(size) for size in small.shape)] = small
    return copy
