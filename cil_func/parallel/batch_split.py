"""Splits each batch among the processes of a run, in whole groups of images that share batch norm's statistics."""

import math

from cil_func.errors import ConfigError


def slice_of_rank(rank: int, size: int, *, batch_size: int, norm_batch: int) -> slice:
    """Returns the positions in a global batch that one process computes, as a slice; it may be empty.

    rank: of this process. size: the number of processes. batch_size: of the global batch.
    norm_batch: how many images share batch norm's statistics; 1 or more if there are several processes.
    The processes take whole groups of norm_batch images, in order of rank. Only the last group of the batch may be
    smaller. The slice has at most `rows_per_process` positions.
    """
    rows = rows_per_process(size, batch_size=batch_size, norm_batch=norm_batch)
    return slice(min(rank * rows, batch_size), min((rank + 1) * rows, batch_size))


def rows_per_process(size: int, *, batch_size: int, norm_batch: int) -> int:
    """Returns how many rows each of `size` processes computes in a step, padding included.

    batch_size, norm_batch: as in `slice_of_rank`. It is the same number for all, so that all have the same compiled
    graph. With one process it is batch_size.
    """
    if size == 1:
        return batch_size
    return math.ceil(math.ceil(batch_size / norm_batch) / size) * norm_batch


def fit_batch_size(count: int, *, batch_size: int, norm_batch: int, views: int = 1) -> int:
    """Returns the batch size for a phase with `count` images: batch_size, halved while one batch holds them all.

    norm_batch: how many images share batch norm's statistics; 0: all of a batch. A half that is larger than norm_batch
    is rounded up to whole groups of norm_batch images. views: a half is also rounded up to a multiple of this.
    The result is a half, a quarter, ... and not `count` itself, since each batch size needs a graph of its own, whose
    compilation takes a minute, and the counts of most phases differ.
    """
    while True:
        half = math.ceil(batch_size / 2 / views) * views
        if 0 < norm_batch < half:
            half = math.ceil(half / norm_batch) * norm_batch
        if half < max(count, 2) or half == batch_size:
            return batch_size
        batch_size = half


def refuse_cut_views(views: int, size: int, *, batch_size: int, norm_batch: int, table: str) -> None:
    """Raises ConfigError if the views of an image, see `methods.base.Stage`, would not be in one batch and norm group.

    size, batch_size, norm_batch, table: as in `refuse_single_group`.
    """
    if views > 1 and norm_batch == 1 and size > 1:
        raise ConfigError(
            "model.backbone: the method compares the images of a norm group, and without batch norm there is none that "
            f"{size} processes could share a batch by; use one process, or a resnet"
        )
    for name, count in (("batch_size", batch_size), ("norm_batch", norm_batch if norm_batch > 1 else 0)):
        if count % views:
            fits = max(views, count // views * views)
            raise ConfigError(
                f"{table}.{name}: {count}, and the method takes {views} views of each image, which stay together; a "
                f"multiple of {views} fits, such as {fits}"
            )


def refuse_single_group(size: int, *, batch_size: int, norm_batch: int, pads: bool, table: str) -> None:
    """Raises ConfigError if several processes would have to share a batch that is a single group of batch norm.

    size: the number of processes. batch_size: of the global batch.
    norm_batch: how many images share batch norm's statistics; 0: all of a batch; 1: also for a backbone without batch
    norm, where each image is a group of its own.
    pads: whether the backbone can compute padded batches; a timm model with batch norm can't.
    table: the configuration's table with these numbers, for the message: "optim" or "optim.first_phase".
    """
    if size == 1 or (0 < norm_batch < batch_size and pads):
        return
    if not pads:
        raise ConfigError(
            f"model.backbone: this timm model takes its batch norm over the whole batch, which {size} processes can't "
            "share; use one process, a resnet with norm_batch, or a timm model without batch norm (a ViT, ConvNeXt)"
        )
    fits = max(2, math.ceil(batch_size / size))
    if fits >= batch_size:
        raise ConfigError(
            f"{table}.batch_size: {batch_size} images are too few for {size} processes, each of which wants a norm "
            "group of 2 or more; use one process, or larger batches"
        )
    raise ConfigError(
        f"{table}.norm_batch: {norm_batch} makes a batch of {batch_size} images one norm group, which {size} processes "
        f"can't share; {table}.norm_batch={fits} gives each a group (statistics over {fits} images: other results than "
        f"one process has with {norm_batch}, the same as one process has with {fits}), or use one process"
    )
