"""Batches, and chunks of several: records of tensors that enter a training step."""

from typing import NamedTuple

from torch import Tensor

PADDING = -1  # the label of a row that only fills a batch up


class Replayed(NamedTuple):
    """The groups of a step; those of several steps have one more axis in front.

    images: uint8 (G, R, H, W, 3). labels: int64 (G, R), PADDING for images that only fill a group up.
    group: int64 (G,), the number of each group. stored: (G, R, C), the logits that were stored of the images; None:
    none were.
    """

    images: Tensor
    labels: Tensor
    group: Tensor
    stored: Tensor | None = None


class Batch(NamedTuple):
    """The images and labels of one batch, or of several batches one after the other.

    images: uint8 (B, H, W, 3). labels: int64 (B,), one for each image.
    """

    images: Tensor
    labels: Tensor


class ReplayBatch(NamedTuple):
    """One batch, as `Batch`, and the exemplars that come beside it, for methods that replay them so."""

    images: Tensor
    labels: Tensor
    replayed: Replayed


AnyBatch = Batch | ReplayBatch


class Chunk(NamedTuple):
    """Several consecutive batches, loaded and augmented together.

    batch: the images and labels that this process trains on, one batch after the other.
    sizes: how many of these images belong to each of the batches; 0 if this process has none of a batch.
    totals: how many images each of the batches has in all processes together.
    done: how many of the first batches the caller has to skip, since they were trained on before the run was resumed.
    Their images are in `batch` all the same.
    replayed: what comes beside each of the batches, with an axis of the batches in front; None: nothing does.
    """

    batch: Batch
    sizes: tuple[int, ...]
    totals: tuple[int, ...]
    done: int
    replayed: Replayed | None = None
