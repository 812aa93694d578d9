"""Whose images are whose: how the processes of a run share a batch, in whole groups of batch norm."""

import math

from cil_func.errors import ConfigError


def slice_of_rank(rank: int, size: int, *, batch_size: int, norm_batch: int) -> slice:
    """Returns the positions in a global batch that one process computes, as a slice; it may be empty.

    rank: of this process; size: the number of processes; batch_size: of the global batch; norm_batch: how many images
    share batch norm's statistics. The processes take whole groups of norm_batch images, in order of rank. Only the
    last group of the batch may be smaller. The slice has at most `rows_per_process` positions.
    """
    rows = rows_per_process(size, batch_size=batch_size, norm_batch=norm_batch)
    return slice(min(rank * rows, batch_size), min((rank + 1) * rows, batch_size))


def rows_per_process(size: int, *, batch_size: int, norm_batch: int) -> int:
    """Rows that each of `size` processes holds in a step, padding included: one shape, so one graph."""
    if size == 1:
        return batch_size
    return math.ceil(math.ceil(batch_size / norm_batch) / size) * norm_batch


def fit_batch_size(count: int, *, batch_size: int, norm_batch: int) -> int:
    """The batch size for a phase of `count` rows: batch_size halved as often as one batch still holds them all.

    A half is rounded up to whole groups of norm_batch images, where it is more than one. StepParts, and not `count`
    itself: each size is a graph, whose compilation takes a minute, and the counts of most phases differ.
    """
    while True:
        half = math.ceil(batch_size / 2)
        if 0 < norm_batch < half:
            half = math.ceil(half / norm_batch) * norm_batch
        if half < max(count, 2):
            return batch_size
        batch_size = half


def refuse_single_group(size: int, *, batch_size: int, norm_batch: int, pads: bool, table: str) -> None:
    """Raises ConfigError where a batch is one norm group, which several processes can't share.

    norm_batch: 1 for a backbone without batch norm, where each image is a group; pads: False for a timm model with it.
    """
    if size == 1 or (0 < norm_batch < batch_size and pads):
        return
    if not pads:
        raise ConfigError(
            f"model.backbone: this timm model takes its batch norm over the whole batch, which {size} processes can't "
            "share; use one process, a resnet with norm_batch, or a timm model without batch norm (a ViT, ConvNeXt)"
        )
    fits = max(2, math.ceil(batch_size / size))
    raise ConfigError(
        f"{table}.norm_batch: {norm_batch} makes a batch of {batch_size} images one norm group, which {size} processes "
        f"can't share; {table}.norm_batch={fits} gives each a group (statistics over {fits} images: other results than "
        f"one process has with {norm_batch}, the same as one process has with {fits}), or use one process"
    )
