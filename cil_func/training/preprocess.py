"""Pixels -> what a network is given, and the precisions that a run can have."""

from typing import NamedTuple

import torch

from cil_func.data.images import normalise

DTYPES = {  # precision -> (parameters, statistics, loss and update; convolutions)
    "float64": (torch.float64, torch.float64),
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.float32, torch.bfloat16),
}


class Preprocess(NamedTuple):
    """Normalises pixels: called with images (B, H, W, 3) uint8 and a dtype, it returns (B, 3, H, W) of that dtype.

    mean, std: (3,), of pixels scaled to 0..1. It computes in their dtype and on their device, which the images must be
    on. See `data.images.normalise`, which does it and raises ValueError for images of another type.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __call__(self, images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return normalise(images, self.mean, self.std, dtype=dtype)
