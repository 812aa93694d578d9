"""Chunks of batches: some rows of the images at a time, augmented together."""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from cil_func import rng, tree
from cil_func.data.augmentation.augment import CHUNK_PIXELS, Augment
from cil_func.data.augmentation.uploads import pin, upload
from cil_func.data.batch import Batch, Chunk, Replayed
from cil_func.data.images import Images, Part, Resident
from cil_func.data.replays import Replays, appended

_PREFETCH = 2  # chunks prepared ahead: one to hand out, one to hide a slow one
# Pixels in a chunk that Pillow prepares, at most; a batch at least. On a GPU as many as the forward graph takes at a
# time (`setup`), so that the teacher sees a chunk in one call of it.
PILLOW_PIXELS = {"cpu": 1, "cuda": 1 << 21}
_STATISTICS_PIXELS = 1 << 24  # pixels looked at at a time: bounds the working memory


Prepared = tuple[Chunk, dict[str, Tensor]]  # a chunk where the images are, and the draws still to be applied to it
Around = Callable[[Iterator[Prepared]], Iterator[Prepared]]


def epoch_chunks(
    images: Images,
    labels: Tensor,
    rows: Tensor,
    *,
    batch_size: int,
    key: int,
    augment: Augment | None,
    device: torch.device,
    own: slice | None = None,
    joins: bool = False,
    first_step: int = 0,
    around: Around = iter,
    replays: Replays | None = None,
    views: int = 1,
) -> Iterator[Chunk]:
    """Returns an iterator over the chunks of one epoch: the images of `rows` in random order, augmented, on `device`.

    images: N images. labels: int64 (N,). Each may be on the CPU or on a GPU.
    rows: int64 (M,), the images of this epoch; each comes `views` times, side by side, by draws of its own each time.
    batch_size: images of a batch in all processes together, all views counted. key: an int, the seed of this epoch's
    order and augmentation. augment: None leaves the images as they are.
    device: where the images and labels of a chunk are put.
    own: the positions in each batch that this process trains on; None: all. joins: see `cut`.
    first_step: the number of the first batch that is needed. The first chunk is the one that this batch is in: it may
    begin with earlier batches (`Chunk.done`), so chunks are the same wherever a training goes on.
    around: given the iterator over loaded images, before they are augmented on `device`; returns one over the same, and
    may measure how long it waits.
    replays: what comes beside the batches, augmented as they are; None: nothing.

    A chunk has as many whole batches, one or more, as fit into the CHUNK_PIXELS of the device, or into PILLOW_PIXELS if
    Pillow augments. All random numbers are drawn in this call, on the host: what an image gets doesn't depend on
    batches, chunks or processes, and nothing waits for a GPU.
    If Pillow augments, or if the images are in files or on another kind of device than `device`, a background thread
    prepares chunks while others are trained on. It starts in this call, as the processes that decode files do, and ends
    when the iterator is exhausted or closed. What it raises is raised by the iterator.
    Raises ValueError for a batch_size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"epoch_chunks: batch_size={batch_size}; give 1 or more")
    order = torch.randperm(len(rows), generator=rng.generator(rng.fold_in(key, "order")))
    rows = rows.cpu()[order].repeat_interleave(views)  # (M views,)
    draws = augment.draw(rng.fold_in(key, "augment"), len(rows)) if augment else {}
    by_pillow = augment is not None and augment.by_pillow
    all_batches = cut(len(rows), batch_size, joins=joins)
    steps, here = len(all_batches), own.stop - own.start if own else batch_size
    beside = len(replays.pools) * (replays.share.filled or replays.share.size) if replays else 0
    length = chunk_steps(images, here + beside, device, by_pillow=by_pillow)

    starts = range(first_step // length * length, steps, length)
    plans = [_plan(all_batches[start : start + length], own, max(0, first_step - start)) for start in starts]
    replayed: list[Replayed | None] = [None] * len(plans)
    if replays:
        steps_of = [range(start, start + len(plan.sizes)) for start, plan in zip(starts, plans, strict=True)]
        more = [replays.of_steps(each, key, labels, augment) for each in steps_of]
        rows, draws, places = appended(rows, draws, [plan.places for plan in plans], more)
        plans = [plan._replace(places=each) for plan, each in zip(plans, places, strict=True)]
        replayed = [each for *_, each in more]
    at_loading = augment.loading(draws) if augment else {}
    later = {name: draw for name, draw in draws.items() if name not in at_loading}
    parts = [Part(rows[plan.places], {name: draw[plan.places] for name, draw in at_loading.items()}) for plan in plans]
    loaded = images.stream(parts, augment)

    def prepared() -> Generator[Prepared]:
        with closing(loaded):
            for plan, part, pixels, others in zip(plans, parts, loaded, replayed, strict=True):
                batch = Batch(pin(pixels, device), labels[upload(part.rows, labels.device)])
                drawn = {name: draw[plan.places] for name, draw in later.items()}
                yield Chunk(batch, plan.sizes, plan.totals, plan.done, others), drawn

    def finish(chunk: Chunk, drawn: dict[str, Tensor]) -> Chunk:
        """Returns the chunk with its images and labels on `device`, its images augmented.

        drawn: what `Augment.draw` drew for the chunk's images and is still to be applied; {} leaves them as they are.
        """
        chosen, here = (upload(leaf, device) for leaf in chunk.batch)
        chosen = augment.apply(chosen, drawn) if augment and drawn else chosen
        if chunk.replayed is None:
            return chunk._replace(batch=Batch(chosen, here))
        count = sum(chunk.sizes)  # the images of the batches; those beside them follow
        beside = tree.map(lambda leaf: upload(leaf, device), chunk.replayed)
        beside = beside._replace(images=chosen[count:].view(*beside.labels.shape, *chosen.shape[1:]))
        return chunk._replace(batch=Batch(chosen[:count], here[:count]), replayed=beside)

    ahead = by_pillow or images.workers is not None or images.device.type != device.type
    chunks = _prefetched(prepared(), len(plans), device) if ahead else prepared()  # the thread begins here
    return (finish(*parts) for parts in around(chunks))


def epoch_batches(
    images: Tensor | Images,
    labels: Tensor,
    rows: Tensor | None = None,
    *,
    batch_size: int,
    key: int,
    augment: Augment | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Returns an iterator over the batches of one epoch, in random order: for a loop of one's own.

    images: uint8 (N, H, W, 3), or a set of images. labels: int64 (N,). rows: int64 (M,), those of both that are used,
    each once; None: all. key: an int, the seed of this epoch's order and augmentation: another one in each epoch.
    augment: None leaves the images as they are. device: where the batches are put.
    Each batch has batch_size images, uint8 (B, H, W, 3), the last one what is left. `images.normalise` makes them what
    a network is given. A run takes the same ones, in chunks of several: `epoch_chunks`.
    Raises ValueError for a batch_size below 1, or labels that are not one for each image.
    """
    if isinstance(images, Tensor):
        images = Resident(images)
    if labels.shape != (len(images),):
        raise ValueError(f"epoch_batches: labels {tuple(labels.shape)} for {len(images)} images; give one for each")
    rows = torch.arange(len(images)) if rows is None else rows
    device = torch.device(device)
    chunks = epoch_chunks(images, labels, rows, batch_size=batch_size, key=key, augment=augment, device=device)
    return (
        Batch(*parts)
        for chunk in chunks
        for parts in zip(*(leaf.split(chunk.sizes) for leaf in chunk.batch), strict=True)
    )


def cut(count: int, batch_size: int, *, joins: bool = False) -> list[range]:
    """Returns the positions of each batch in an epoch over `count` images, as ranges. The last batch may be smaller.

    joins: whether a last batch of a single image is joined to the one before it, which then has batch_size + 1 images.
    """
    starts = list(range(0, count, batch_size))
    if joins and len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return [range(start, stop) for start, stop in pairwise([*starts, count])]


class _Plan(NamedTuple):
    """A chunk before its images are loaded: the places of its images in the epoch's order, and `Chunk`'s numbers."""

    places: Tensor
    sizes: tuple[int, ...]
    totals: tuple[int, ...]
    done: int


def _plan(batches: list[range], own: slice | None, done: int) -> _Plan:
    """Returns the plan of a chunk. batches: the places of each batch's images. own: see `epoch_chunks`."""
    here = [batch[own] if own else batch for batch in batches]
    places = torch.cat([torch.arange(each.start, each.stop) for each in here])
    return _Plan(places, tuple(map(len, here)), tuple(map(len, batches)), done)


def chunk_steps(images: Images, rows: int, device: torch.device, *, by_pillow: bool) -> int:
    """Returns how many steps a whole chunk has, at least one. rows: how many images a step has in this process.

    device: where chunks are put. by_pillow: whether Pillow augments.
    """
    limits = PILLOW_PIXELS if by_pillow else CHUNK_PIXELS
    pixels = images.shape[0] * images.shape[1]
    return max(1, limits[device.type] // (pixels * max(1, rows)))


def channel_statistics(images: Images, rows: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel of pixels / 255 over `rows`, as two tuples of 3 floats.

    rows: int64 (M,), on the CPU. Both are computed from a histogram of the 256 values, so they are exact but for the
    last rounding, whatever the number of pixels. A standard deviation below 1/255, one step of uint8, is returned as
    1/255, since callers divide by it.
    Raises ValueError if there are no rows.
    """
    if len(rows) == 0:
        raise ValueError("channel_statistics: no rows; give at least one")
    height, width = images.shape
    chunk = max(1, _STATISTICS_PIXELS // (height * width))
    counts = torch.zeros(3, 256, dtype=torch.int64)
    for pixels in images.stream([Part(chosen, {}) for chosen in rows.split(chunk)]):
        planes = rearrange(pixels, "n h w c -> c (n h w)")
        counts += torch.stack([torch.bincount(values, minlength=256).cpu() for values in planes])
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = counts / counts.sum(1, keepdim=True).double()  # (3, 256)
    mean = shares @ values  # (3,)
    variance = (shares * (values - mean[:, None]) ** 2).sum(1)  # (3,)
    return tuple(mean.tolist()), tuple(variance.sqrt().clamp_min(1 / 255).tolist())


def _prefetched(prepared: Generator[Prepared], count: int, device: torch.device) -> Iterator[Prepared]:
    """Returns an iterator over the `count` items of a generator. A thread takes up to _PREFETCH of them ahead.

    The thread starts in this call. The generator is closed at the end, also when the consumer stops early.
    device: where the items go; if it is a GPU, this thread's is the other one's too, which would begin with the first.
    """
    begin: Callable[[], object] = lambda: None  # noqa: E731
    if device.type == "cuda":
        begin = partial(torch.cuda.set_device, torch.cuda.current_device())
    pool = ThreadPoolExecutor(1, thread_name_prefix="batches", initializer=begin)
    pending = deque(pool.submit(next, prepared) for _ in range(min(count, _PREFETCH)))

    def results() -> Iterator[Prepared]:
        try:
            for _ in range(count - len(pending)):
                result = pending.popleft().result()
                pending.append(pool.submit(next, prepared))
                yield result
            while pending:
                yield pending.popleft().result()
        finally:  # also when the consumer stops early: closing a generator raises in it
            pool.shutdown(wait=True, cancel_futures=True)
            prepared.close()

    return results()
