"""Random windows of whole image files, brought to the size of a training image: the crop of ImageNet's recipes.

They are cut where a file is decoded, since only there the whole image is known, each by a seed of its own.
"""

import math
import random

import torch
from PIL import Image
from torch import Tensor

from cil_func import rng

RATIO = (3 / 4, 4 / 3)  # width over height
_TRIES = 10


def draw(key: int, count: int) -> Tensor:
    """Draws a seed for each of `count` images: int64 (count,). key: an int, a seed."""
    return torch.randint(2**63 - 1, (count,), generator=rng.generator(key))


def box(width: int, height: int, seed: int, *, smallest: float) -> tuple[int, int, int, int]:
    """Returns (left, top, right, bottom) of a random window of an image, in pixels.

    width, height: of the image. seed: an int, which decides. smallest: the smallest share of the image's area.
    The share is uniform in [smallest, 1], the logarithm of width over height is uniform in that of RATIO. If ten
    windows in turn don't fit into the image, it is the largest one in the centre whose ratio is allowed.
    Source: Inception's crop (Szegedy et al. 2015), as in torchvision's RandomResizedCrop and timm's.
    """
    numbers = random.Random(seed)
    for _ in range(_TRIES):
        area = width * height * numbers.uniform(smallest, 1.0)
        ratio = math.exp(numbers.uniform(*map(math.log, RATIO)))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            top, left = numbers.randint(0, height - high), numbers.randint(0, width - wide)
            return left, top, left + wide, top + high
    wide = min(width, round(height * RATIO[1]))
    high = min(height, round(width / RATIO[0]))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def cut(image: Image.Image, seed: int, *, smallest: float, size: tuple[int, int]) -> Image.Image:
    """Returns a random window of an RGB image of Pillow, brought to `size`, (height, width), bicubic.

    seed, smallest: see `box`.
    """
    height, width = size
    window = image.crop(box(*image.size, seed, smallest=smallest))
    return window.resize((width, height), Image.Resampling.BICUBIC)
