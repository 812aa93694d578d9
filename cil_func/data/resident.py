"""The whole data set in memory as uint8: a batch is a gather of rows, prepared one ahead of its use."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from cil_func import rng
from cil_func.data.augment import Augment

_PREFETCH = 2  # batches prepared ahead: one to hand out, one to hide a slow one
_STATISTICS_PIXELS = 1 << 24  # pixels looked at at a time: bounds the working memory


class Batch(NamedTuple):
    """images: uint8 (B, H, W, 3); labels: int64 (B,)."""

    images: Tensor
    labels: Tensor


def epoch_batches(
    images: Tensor, labels: Tensor, rows: Tensor, *, batch_size: int, key: int, augment: Augment | None
) -> Iterator[Batch]:
    """One epoch over `rows` in random order; the last, smaller batch is used, not dropped.

    images: uint8 (N, H, W, 3); labels: int64 (N,); rows: int64 (M,), each comes once; key: the epoch's,
    from which order and draws follow; augment: None for the images as they are.
    Draws are made for the whole epoch at once: what an image gets doesn't depend on the batch size.
    One background thread prepares batches while others are trained on; it ends when the iterator is
    used up or closed, and its exceptions reach the caller as themselves.
    """
    _check_batch_size("epoch_batches", batch_size)
    order = torch.randperm(len(rows), generator=rng.generator(rng.fold_in(key, "order")))
    rows = rows.cpu()[order]  # (M,)
    draws = augment.draw(rng.fold_in(key, "augment"), len(rows)) if augment else {}

    def prepare(start: int) -> Batch:
        here = slice(start, start + batch_size)
        chosen = rows[here]
        batch = images[chosen.to(images.device)]  # (B, H, W, 3)
        if augment:
            batch = augment.apply(batch, {name: draw[here] for name, draw in draws.items()})
        return Batch(batch, labels[chosen.to(labels.device)])

    return _prefetched(prepare, range(0, len(rows), batch_size))


def eval_batches(images: Tensor, rows: Tensor, *, batch_size: int) -> Iterator[Tensor]:
    """Images uint8 (B, H, W, 3) of `rows`, in their order, un-augmented; the last may be smaller."""
    _check_batch_size("eval_batches", batch_size)
    for chosen in rows.to(images.device).split(batch_size) if len(rows) else ():
        yield images[chosen]


def channel_statistics(images: Tensor, rows: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of pixels / 255 over `rows`: ((3,), (3,)).

    From a histogram of the 256 values, so exact but for the last rounding, whatever the number of pixels.
    A channel that hardly varies gets 1/255, one step of uint8, for people divide by it.
    Raises ValueError for no rows.
    """
    if len(rows) == 0:
        raise ValueError("channel_statistics: no rows; give at least one")
    _, height, width, channels = images.shape
    chunk = max(1, _STATISTICS_PIXELS // (height * width))
    counts = torch.zeros(channels, 256, dtype=torch.int64)
    for part in eval_batches(images, rows, batch_size=chunk):
        for channel in range(channels):
            counts[channel] += torch.bincount(part[..., channel].flatten(), minlength=256).cpu()
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = counts / counts.sum(1, keepdim=True).double()  # (3, 256)
    mean = shares @ values  # (3,)
    variance = (shares * (values - mean[:, None]) ** 2).sum(1)  # (3,)
    return tuple(mean.tolist()), tuple(variance.sqrt().clamp_min(1 / 255).tolist())


def _prefetched(prepare: Callable[[int], Batch], starts: range) -> Iterator[Batch]:
    """prepare(start) for each start, in order, up to _PREFETCH of them ahead of the consumer."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
    pending: deque[Future[Batch]] = deque()
    try:
        pending.extend(pool.submit(prepare, start) for start in starts[:_PREFETCH])
        for start in starts[_PREFETCH:]:
            batch = pending.popleft().result()
            pending.append(pool.submit(prepare, start))
            yield batch
        while pending:
            yield pending.popleft().result()
    finally:  # also when the consumer stops early: closing a generator raises in it
        pool.shutdown(wait=True, cancel_futures=True)


def _check_batch_size(name: str, batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"{name}: batch_size={batch_size}; give 1 or more")
