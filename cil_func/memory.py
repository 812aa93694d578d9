"""Exemplar memory: the few old images that may be kept, as bookkeeping over row numbers.

A memory is a dict {label: (M,) int64 tensor of rows of the training set}, each in order of rank: the
first is the one to keep longest. Images stay where they are; only their numbers move. After each phase the
quota of a class shrinks (`quota`), old classes keep the start of their list (`trim`), which is why the
order of selection must be kept, and the new classes get theirs (`choose`, `update`). Memories are values:
nothing here changes its arguments.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch

from cil_func import herding, rng

Memory = dict[int, torch.Tensor]
SELECTIONS = ("herding", "random", "closest")


class Budget(NamedTuple):
    """How many exemplars are kept and how they are chosen.

    size, fixed_per_class: see `quota`. selection: see `choose`. mirror_means: whether class means are taken over the
    exemplars and their mirror images, as in the original iCaRL.
    """

    size: int
    fixed_per_class: int = 0
    selection: Literal["herding", "random", "closest"] = "herding"
    mirror_means: bool = False


def quota(classes_seen: int, *, size: int, fixed_per_class: int = 0) -> int:
    """Exemplars that each class may keep: size // classes_seen, or fixed_per_class if that is above 0.

    With `size` the whole memory never holds more than that (and 0 a class once classes outnumber it);
    with `fixed_per_class` it grows with the classes. Raises ValueError for classes_seen below 1 or
    negative sizes. Source: iCaRL (arXiv:1611.07725), section 3.3; fixed: Hou et al. 2019 (LUCIR).
    """
    if classes_seen < 1 or size < 0 or fixed_per_class < 0:
        raise ValueError(
            f"quota: classes_seen={classes_seen}, size={size}, fixed_per_class={fixed_per_class}; "
            "classes_seen must be at least 1, the others at least 0"
        )
    return fixed_per_class if fixed_per_class > 0 else size // classes_seen


def choose(features: torch.Tensor, count: int, *, selection: str, key: int) -> torch.Tensor:
    """Picks exemplars among the N images of one class, by their features, in order of rank.

    features: (N, D), of images that were *not* augmented, by a model in eval mode: all ranks must agree.
    selection: "herding" (`herding.herd`: their mean follows the class mean), "closest" (nearest to the
    mean of the L2-normalised rows, nearest first, ties to the lowest row), "random" (by `key`, which the
    others ignore). Returns (min(count, N),) int64 on the CPU, distinct: a class with fewer images gives all.
    Raises ValueError for another selection, features not 2-D or not finite, or count below 0.
    """
    if selection not in SELECTIONS:
        raise ValueError(f"choose: selection={selection!r}; give one of {', '.join(SELECTIONS)}")
    if count < 0:
        raise ValueError(f"choose: count={count}; give 0 or more")
    rows = herding.finite_rows("choose", features)
    count = min(count, len(rows))
    if selection == "herding":
        return herding.herd(features, count)
    if selection == "random":
        return torch.randperm(len(rows), generator=rng.generator(key))[:count]
    rows = herding.unit_rows(rows)
    distances = np.linalg.norm(rows - rows.sum(axis=0) / max(len(rows), 1), axis=1)  # (N,)
    return torch.from_numpy(np.argsort(distances, kind="stable")[:count])


def trim(memory: Memory, quota: int) -> Memory:
    """Each class keeps its first `quota` rows, or all it has. Raises ValueError for quota below 0."""
    if quota < 0:
        raise ValueError(f"trim: quota={quota}; give 0 or more")
    return {label: kept[:quota] for label, kept in memory.items()}


def update(memory: Memory, chosen: Memory, quota: int) -> Memory:
    """The memory of the next phase: old classes trimmed to the quota, the chosen rows of new ones added.

    chosen: {label: (M,) int64 rows of the training set, by rank}, cut to the quota too, so that the result
    holds at most quota rows a class. Raises ValueError for a label that is in the memory already.
    """
    known = sorted(memory.keys() & chosen.keys())
    if known:
        raise ValueError(f"update: classes {known} are in the memory already; choose only for new classes")
    return trim(memory | chosen, quota)


def rows(memory: Memory) -> torch.Tensor:
    """All rows as one (size(memory),) int64 tensor: by ascending label, within a class by rank."""
    if not memory:
        return torch.empty(0, dtype=torch.int64)
    return torch.cat([memory[label] for label in sorted(memory)])


def size(memory: Memory) -> int:
    """How many exemplars the memory holds."""
    return sum(len(kept) for kept in memory.values())
