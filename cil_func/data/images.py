"""What a set of images is to the rest of the package: pictures by row number, wherever they are kept."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cil_func.data.augmentation.operations import upload

_FREE_SHARE = 0.5  # of the GPU's free memory, that a set of images may take


class Images(Protocol):
    """N images of one size, uint8 (H, W, 3) each.

    shape: (H, W). device: where `gather` puts them. nbytes: how much memory they take.
    """

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def nbytes(self) -> int: ...

    def __len__(self) -> int: ...

    def gather(self, rows: Tensor) -> Tensor:
        """The images (B, H, W, 3) at the places `rows` (B,), int64 on the CPU, in their order."""
        ...


@dataclass(frozen=True)
class Resident:
    """Images that are all in memory, as one tensor uint8 (N, H, W, 3), on a CPU or a GPU."""

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
        """See `Images`. The row numbers go to a GPU by a pinned upload, so that it is not waited for."""
        return self.pixels[upload(rows, self.pixels.device)]


def resident(pixels: Tensor, device: torch.device) -> Resident:
    """Images uint8 (N, H, W, 3) on the device if half of its free memory holds them, else where they are."""
    if device.type == "cuda" and pixels.nbytes > _FREE_SHARE * torch.cuda.mem_get_info(device)[0]:
        return Resident(pixels)
    return Resident(pixels.to(device))


@dataclass(frozen=True)
class Mirrored:
    """The mirror images, left to right, of other images."""

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
        """See `Images`."""
        return self.images.gather(rows).flip(2)
