"""Images that come beside each batch: groups of exemplars, drawn anew for each step."""

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cil_func import rng, tree
from cil_func.data.augmentation.augment import Augment, Draws
from cil_func.data.batch import PADDING, Replayed


class Pool(NamedTuple):
    """What a group is drawn from.

    group: its number. rows: int64 (M,), of the training set, M > 0. logits: (M, C), stored of these images, or None.
    """

    group: int
    rows: Tensor
    logits: Tensor | None = None


class Share(NamedTuple):
    """Which images of a group this process computes.

    size: how many images a group has, or all of its pool if that has fewer. own: the places in the group that this
    process takes; None: all. filled: to how many images its part is filled up; 0: not at all, and all groups of a step
    have as many images as the smallest pool allows.
    """

    size: int
    own: slice | None = None
    filled: int = 0


class Replays(NamedTuple):
    """The pools of a stage, and this process's share of what is drawn from them."""

    pools: tuple[Pool, ...]
    share: Share

    def of_steps(
        self, steps: Sequence[int], key: int, labels: Tensor, augment: Augment | None
    ) -> tuple[Tensor, Draws, Replayed]:
        """Draws the groups of some steps. Returns (rows, draws, replayed), `replayed` without its images.

        rows: int64 (S * G * R,), of these images, in their order in `replayed`. draws: what `augment` draws for them.
        key: the epoch's, so that a step's draws don't depend on which steps are asked for. labels: int64 (N,).
        Each image comes once in a group. All pools of a step are drawn from independently.
        """
        chosen = torch.stack([torch.stack([self._places(pool, key, step) for pool in self.pools]) for step in steps])
        rows = torch.stack([pool.rows[chosen[:, at].clamp(min=0)] for at, pool in enumerate(self.pools)], dim=1)
        found = labels.cpu()[rows].masked_fill(chosen < 0, PADDING)  # (S, G, R)
        group = torch.tensor([pool.group for pool in self.pools]).expand(len(steps), -1)
        stored = None
        if self.pools[0].logits is not None:
            of_pools = [(pool.logits, chosen[:, at].clamp(min=0)) for at, pool in enumerate(self.pools)]
            stored = torch.stack([logits[places] for logits, places in of_pools if logits is not None], dim=1)
        draws = self._draws(augment, key, steps) if augment else {}
        return rows.flatten(), draws, Replayed(rows, found, group, stored)

    @property
    def _count(self) -> int:
        """How many images a group of all processes has, padding included."""
        return self.share.size if self.share.filled else min(self.share.size, *(len(pool.rows) for pool in self.pools))

    def _own(self, places: Tensor, padding: int) -> Tensor:
        """Returns those of a group's places that this process takes, filled up with `padding`: (R,)."""
        own = places[: self._count][self.share.own or slice(None)]
        return F.pad(own, (0, max(0, self.share.filled - len(own))), value=padding)

    def _places(self, pool: Pool, key: int, step: int) -> Tensor:
        """Returns the places of a step's images in a pool, (R,) int64, -1 for padding."""
        generator = rng.generator(rng.fold_in(key, "replay", step, pool.group))
        return self._own(torch.randperm(len(pool.rows), generator=generator), -1)

    def _draws(self, augment: Augment, key: int, steps: Sequence[int]) -> Draws:
        """Returns the draws of augmentation for this process's images, (S * G * R, ...), of those for all processes."""
        count = len(self.pools) * self._count
        first = torch.arange(0, count, self._count)[:, None]  # (G, 1)
        places = (first + self._own(torch.arange(self._count), 0)).flatten()  # (G * R,)
        each = [augment.draw(rng.fold_in(key, "augment replayed", step), count) for step in steps]
        return tree.map(lambda *parts: torch.cat([part[places] for part in parts]), *each)


def appended(
    rows: Tensor, draws: Draws, places: list[Tensor], more: Sequence[tuple[Tensor, Draws, Replayed]]
) -> tuple[Tensor, Draws, list[Tensor]]:
    """Puts what comes beside the batches of an epoch behind its own images. Returns (rows, draws, places) of all.

    rows, draws: of the epoch's images. places: of the images of each chunk, in both. more: from `Replays.of_steps`, of
    each chunk's steps.
    """
    sizes = [len(each) for each, *_ in more]
    ends = list(accumulate(sizes, initial=len(rows)))
    joined = [
        torch.cat([own, torch.arange(end, end + size)]) for own, end, size in zip(places, ends, sizes, strict=False)
    ]
    every = {name: torch.cat([draw, *(drawn[name] for _, drawn, _ in more)]) for name, draw in draws.items()}
    return torch.cat([rows, *(each for each, *_ in more)]), every, joined
