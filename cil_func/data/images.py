"""Defines what a set of images is to the rest of the package: images by row number, wherever they are stored."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cil_func.data.augmentation import window
from cil_func.data.augmentation.augment import Augment
from cil_func.data.augmentation.uploads import upload

_FREE_SHARE = 0.5  # of the GPU's free memory, that a set of images may take


class Part(NamedTuple):
    """Some images that are loaded together.

    rows: int64 (B,), their numbers, on the CPU. draws: {name: (B, ...)}, those of `Augment.loading`, of each image.
    """

    rows: Tensor
    draws: dict[str, Tensor]


class Images(Protocol):
    """N images of one size, uint8 RGB, that are got by row number; len() is N.

    shape: (H, W) of each image. device: where `gather` returns images. nbytes: how many bytes of memory the set takes.
    workers: how many processes decode images in files ahead, when they are asked for; None: images are in memory, or
    mapped into it.
    """

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def nbytes(self) -> int: ...

    @property
    def workers(self) -> int | None: ...

    def __len__(self) -> int: ...

    def gather(self, rows: Tensor) -> Tensor:
        """Returns the images with the numbers `rows`, in their order: uint8 (B, H, W, 3), on `device`.

        rows: int64 (B,), 0 to N - 1, on the CPU. For a few images; for many there is `stream`.
        """
        ...

    def stream(self, parts: Sequence[Part], augment: Augment | None = None) -> Generator[Tensor]:
        """Returns a generator of the images of each part, in turn: uint8 (B, H, W, 3), on `device`.

        Images in files are decoded ahead of what is taken. Close the generator if it isn't exhausted.
        augment: does its `Augment.loading` to the images, by the parts' draws; None leaves them as they are.
        """
        ...


class _OfOneArray:
    """What images have in common that are got from one array or tensor, `pixels`: uint8 (N, H, W, 3)."""

    pixels: Any

    @property
    def shape(self) -> tuple[int, int]:
        height, width = self.pixels.shape[1:3]
        return height, width

    @property
    def workers(self) -> int | None:
        return None

    def __len__(self) -> int:
        return len(self.pixels)

    def gather(self, rows: Tensor) -> Tensor:
        """See `Images.gather`."""
        raise NotImplementedError

    def stream(self, parts: Sequence[Part], augment: Augment | None = None) -> Generator[Tensor]:
        """See `Images.stream`. An image is gathered when it is taken."""
        return (_loaded(self.gather(part.rows), part.draws, augment) for part in parts)


@dataclass(frozen=True)
class Resident(_OfOneArray):
    """Images that are all in memory, as one tensor. pixels: uint8 (N, H, W, 3), on a CPU or a GPU."""

    pixels: Tensor

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes

    def gather(self, rows: Tensor) -> Tensor:
        """See `Images.gather`. For images on a GPU the row numbers are copied there without waiting for it."""
        return self.pixels[upload(rows, self.pixels.device)]


@dataclass(frozen=True)
class Packed(_OfOneArray):
    """Images in a file that is mapped into memory, which the system reads as they are looked at, and may drop again.

    pixels: uint8 (N, H, W, 3), read-only; see `reading.packed.PackedFile.map`.
    """

    pixels: np.ndarray

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def nbytes(self) -> int:
        return 0

    def gather(self, rows: Tensor) -> Tensor:
        """See `Images.gather`."""
        return torch.from_numpy(self.pixels.take(rows.numpy(), axis=0))


def normalise(pixels: Tensor, mean: Tensor, std: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    """Returns what a network is given: (pixels / 255 - mean) / std, with the channels in front, (B, 3, H, W).

    pixels: uint8 (B, H, W, 3). mean, std: (3,), of pixels scaled to 0..1, see `batches.channel_statistics`; on the
    pixels' device. It is computed in their dtype. dtype: of the result; None: theirs.
    Raises ValueError for pixels of another type: floating-point ones may be scaled to 0..1 already.
    """
    if pixels.dtype != torch.uint8:
        raise ValueError(f"normalise: images are {pixels.dtype}; give the pixels as uint8, 0 to 255")
    # Rounded once. The axes move without a copy: channels_last.
    return ((pixels.to(mean.dtype) / 255 - mean) / std).permute(0, 3, 1, 2).to(dtype or mean.dtype)


def resident(pixels: Tensor, device: torch.device) -> Resident:
    """Returns the images as a `Resident`: on `device`, or where they are if they take over half of a GPU's free memory.

    pixels: uint8 (N, H, W, 3).
    """
    if device.type == "cuda" and pixels.nbytes > _FREE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return Resident(pixels)
    return Resident(pixels.to(device))


def on_device(images: Images, device: torch.device) -> Images:
    """Returns images in memory as `resident` does; others come back as they are."""
    return resident(images.pixels, device) if isinstance(images, Resident) else images


@dataclass(frozen=True)
class Mirrored:
    """The mirror images, left to right, of the set `images`.

    They are made when they are gathered and take no memory of their own: `nbytes` is that of `images`.
    """

    images: Images

    @property
    def shape(self) -> tuple[int, int]:
        return self.images.shape

    @property
    def device(self) -> torch.device:
        return self.images.device

    @property
    def nbytes(self) -> int:
        return self.images.nbytes

    @property
    def workers(self) -> int | None:
        return self.images.workers

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, rows: Tensor) -> Tensor:
        """See `Images.gather`."""
        return self.images.gather(rows).flip(2)

    def stream(self, parts: Sequence[Part], augment: Augment | None = None) -> Generator[Tensor]:
        """See `Images.stream`."""
        return (pixels.flip(2) for pixels in self.images.stream(parts, augment))


def _loaded(pixels: Tensor, draws: dict[str, Tensor], augment: Augment | None) -> Tensor:
    """Returns images, uint8 (B, H, W, 3), after what `augment` does to an image where it is decoded."""
    if augment and augment.window:
        height, width = pixels.shape[1:3]
        cut = [
            window.cut(Image.fromarray(image), seed, smallest=augment.window, size=(height, width))
            for image, seed in zip(pixels.cpu().numpy(), draws["window"].tolist(), strict=True)
        ]
        if cut:
            pixels = torch.from_numpy(np.stack([np.asarray(image) for image in cut]))
    return augment.apply(pixels, draws) if augment and augment.by_pillow else pixels
