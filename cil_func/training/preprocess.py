"""Pixels -> what a network is given, and the precisions that a run can have."""

from typing import NamedTuple

import torch

DTYPES = {  # precision -> (parameters, statistics, loss and update; convolutions)
    "float64": (torch.float64, torch.float64),
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.float32, torch.bfloat16),
}


class Preprocess(NamedTuple):
    """Normalises pixels: called with images (B, H, W, 3) uint8 and a dtype, it returns (B, 3, H, W) of that dtype.

    mean, std: (3,), of pixels scaled to 0..1. It computes in their dtype and on their device, which the images must be
    on.
    Raises ValueError for images of another type: floating-point pixels may be scaled to 0..1 already.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __call__(self, images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if images.dtype != torch.uint8:
            raise ValueError(f"Preprocess: images are {images.dtype}; give the pixels as uint8, 0 to 255")
        # Computed in the statistics' dtype, then rounded once. The axes move without a copy: channels_last.
        pixels = (images.to(self.mean.dtype) / 255 - self.mean) / self.std
        return pixels.permute(0, 3, 1, 2).to(dtype)
