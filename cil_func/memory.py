"""Exemplar memory: which few old images are kept, as row numbers.

A memory is a dict {label: (M,) int64 tensor of rows of the training set}. The rows of a class are in order of rank: the
first is kept longest. After each phase the quota of a class shrinks (`quota`), old classes keep the beginning of their
rows (`trim`), and rows of the new classes are added (`choose`, `update`). Images are not moved. Nothing here changes
its arguments.
"""

from typing import Literal, NamedTuple

import numpy as np
import torch

from cil_func import herding, rng, tree

Memory = dict[int, torch.Tensor]
SELECTIONS = ("herding", "random", "closest")


class Budget(NamedTuple):
    """How many exemplars are kept and how they are chosen.

    size: the most exemplars of all classes together. fixed_per_class: how many of each class instead; 0: size counts,
    see `quota`.
    selection: how images are chosen, see `choose`. mirror_means: whether class means are taken over the exemplars and
    their mirror images, as in the original iCaRL.
    """

    size: int
    fixed_per_class: int = 0
    selection: Literal["herding", "random", "closest"] = "herding"
    mirror_means: bool = False


def quota(classes_seen: int, *, size: int, fixed_per_class: int = 0) -> int:
    """Returns how many exemplars each class may keep: size // classes_seen, or fixed_per_class if that is above 0.

    size: the most exemplars of all classes together. If there are more classes than that, the quota is 0.
    fixed_per_class: of each class, so that the memory grows with the classes; 0: size decides.
    Raises ValueError for classes_seen below 1 or negative sizes.
    Source: iCaRL (arXiv:1611.07725), section 3.3; fixed: Hou et al. 2019 (LUCIR).
    """
    if classes_seen < 1 or size < 0 or fixed_per_class < 0:
        raise ValueError(
            f"quota: classes_seen={classes_seen}, size={size}, fixed_per_class={fixed_per_class}; "
            "classes_seen must be at least 1, the others at least 0"
        )
    return fixed_per_class if fixed_per_class > 0 else size // classes_seen


def choose(features: torch.Tensor, count: int, *, selection: str = "herding", key: int | None = None) -> torch.Tensor:
    """Returns which of the N images of one class are its exemplars, chosen by their features.

    features: (N, D), of images that were *not* augmented, by a model in eval mode, so that all processes choose the
    same. count: how many; if it is above N, all are chosen.
    selection: "herding", see `herding.herd`; "closest": those nearest to the mean of the L2-normalised rows, nearest
    first, of equally near ones the lowest row; "random": drawn by `key`. key: an int seed; the other two need none.
    The result: distinct row numbers in order of rank, (min(count, N),) int64 on the CPU.
    Raises ValueError for another selection, "random" without a key, features not 2-D or not finite, or count below 0.
    """
    if selection not in SELECTIONS:
        raise ValueError(f"choose: selection={selection!r}; give one of {', '.join(SELECTIONS)}")
    if count < 0:
        raise ValueError(f"choose: count={count}; give 0 or more")
    if selection == "random" and key is None:
        raise ValueError('choose: selection="random" without a key; give an int seed, key=0 for example')
    rows = herding.finite_rows("choose", features)
    count = min(count, len(rows))
    if selection == "herding":
        return herding.herd(features, count)
    if key is not None and selection == "random":
        return torch.randperm(len(rows), generator=rng.generator(key))[:count]
    rows = herding.unit_rows(rows)
    distances = np.linalg.norm(rows - rows.sum(axis=0) / max(len(rows), 1), axis=1)  # (N,)
    order = np.argsort(distances)
    steps = np.diff(distances[order], prepend=distances[order][:1]) > herding.TIE  # where the next ones are farther
    return torch.from_numpy(order[np.lexsort((order, np.cumsum(steps)))][:count])


def trim(memory: Memory, quota: int) -> Memory:
    """Returns a memory with the first `quota` rows of each class, or all if it has fewer. The rows are views.

    Raises ValueError for a quota below 0.
    """
    if quota < 0:
        raise ValueError(f"trim: quota={quota}; give 0 or more")
    return {label: kept[:quota] for label, kept in memory.items()}


def update(memory: Memory, chosen: Memory, quota: int) -> Memory:
    """Returns the memory of the next phase: the memory with the rows of new classes, all classes trimmed to the quota.

    memory: of the old classes. chosen: {label: (M,) int64 rows of the training set, in order of rank}, of the new
    classes. quota: how many rows each class keeps at most.
    Raises ValueError for a label that is in the memory already, or a quota below 0.
    """
    known = sorted(memory.keys() & chosen.keys())
    if known:
        raise ValueError(f"update: classes {known} are in the memory already; choose only for new classes")
    return trim(memory | chosen, quota)


def rows(memory: Memory) -> torch.Tensor:
    """Returns all rows of a memory, (size(memory),) int64: in ascending order of label, within a class by rank."""
    if not memory:
        return torch.empty(0, dtype=torch.int64)
    return torch.cat([memory[label] for label in sorted(memory)])


def size(memory: Memory) -> int:
    """Returns how many exemplars the memory has, of all classes together."""
    return sum(len(kept) for kept in memory.values())


def in_bytes(images: int, image_size: tuple[int, int], *, params: tree.Tree, extra: tree.Tree) -> dict[str, int]:
    """Returns how many bytes a method has to keep after a phase: {"exemplars", "model", "remembered", "total"}.

    images: number of exemplars, of image_size (H, W); each counts 3 H W bytes. params: the model's, all backbones
    included; extra: what the method remembers beside them; each number counts 4 bytes, whatever its precision is.
    A teacher is the model itself. Batch norm's statistics don't count.
    Source: Zhou et al. 2023 (arXiv:2302.03648), where methods are compared at equal bytes.
    """
    parts = {
        "exemplars": images * 3 * image_size[0] * image_size[1],
        "model": 4 * tree.size(params),
        "remembered": 4 * tree.size(extra),
    }
    return parts | {"total": sum(parts.values())}
