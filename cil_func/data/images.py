"""Defines what a set of images is to the rest of the package: images by row number, wherever they are stored."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cil_func.data.augmentation.operations import upload

_FREE_SHARE = 0.5  # of the GPU's free memory, that a set of images may take


class Images(Protocol):
    """N images of one size, uint8 RGB, that are got by row number; len() is N.

    shape: (H, W) of each image. device: where `gather` returns images. nbytes: how many bytes of memory the set takes.
    """

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def nbytes(self) -> int: ...

    def __len__(self) -> int: ...

    def gather(self, rows: Tensor) -> Tensor:
        """Returns the images with the numbers `rows`, in their order: uint8 (B, H, W, 3), on `device`.

        rows: int64 (B,), 0 to N - 1, on the CPU.
        """
        ...


@dataclass(frozen=True)
class Resident:
    """Images that are all in memory, as one tensor. pixels: uint8 (N, H, W, 3), on a CPU or a GPU."""

    pixels: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        height, width = self.pixels.shape[1:3]
        return height, width

    @property
    def device(self) -> torch.device:
        return self.pixels.device

    @property
    def nbytes(self) -> int:
        return self.pixels.nbytes

    def __len__(self) -> int:
        return len(self.pixels)

    def gather(self, rows: Tensor) -> Tensor:
        """See `Images.gather`. For images on a GPU the row numbers are copied there without waiting for it."""
        return self.pixels[upload(rows, self.pixels.device)]


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

    def __len__(self) -> int:
        return len(self.images)

    def gather(self, rows: Tensor) -> Tensor:
        """See `Images.gather`."""
        return self.images.gather(rows).flip(2)
