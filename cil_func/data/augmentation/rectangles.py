"""Draws the rectangles that random erasing fills: a seed for each image, and the rectangle that follows from it.

Source: Zhong et al. 2020 (arXiv:1708.04896) as timm's `RandomErasing` has it.
"""

import math

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from cil_func import rng

NOT_ERASED = -1  # instead of a seed
_ATTEMPTS = 10  # rectangles drawn for an image, of which the first that fits is taken
_AREA = (0.02, 1 / 3)  # of the image's area
_ASPECT = (0.3, 1 / 0.3)  # height over width


def draw(key: int, count: int, *, probability: float) -> Tensor:
    """Returns int64 (count,): for an image with a rectangle a seed for `resolve`, 0 or more; else NOT_ERASED.

    key: an int, the seed of the draws, see `rng`. probability: with which an image has a rectangle.
    Seeds and not rectangles are drawn, since the draws of an epoch stay in memory until it ends: these take eight bytes
    an image.
    """
    seeds = torch.randint(2**63 - 1, (count,), generator=rng.generator(rng.fold_in(key, "seed")))
    uniform = torch.rand(count, generator=rng.generator(rng.fold_in(key, "erased")), dtype=torch.float64)
    return torch.where(uniform < probability, seeds, NOT_ERASED)


def resolve(seeds: Tensor, height: int, width: int) -> Tensor:
    """Returns each image's rectangle, int32 (N, 4), as `geometry.erase` takes it; (0, 0, 0, 0) for NOT_ERASED.

    seeds: int64 (N,), from `draw`, on the CPU. height, width: of the images, in pixels.
    Ten rectangles are drawn from a seed, and the first that is smaller than the image in both directions is taken. For
    1 image in 10**20 none fits: it is not erased.
    """
    erased = seeds != NOT_ERASED
    drawn = _uniforms(seeds[erased], 4 * _ATTEMPTS)
    area, aspect, down, right = rearrange(drawn, "image (attempt number) -> number image attempt", number=4)
    low, high = _AREA
    area = (low + (high - low) * area) * (height * width)
    low, high = map(math.log, _ASPECT)
    aspect = (low + (high - low) * aspect).exp()
    tall = (area * aspect).sqrt().round()  # halves to even, as Python rounds
    wide = (area / aspect).sqrt().round()
    fits = (tall < height) & (wide < width)
    tall, wide = tall * fits, wide * fits
    top = (down * (height - tall + 1)).floor()
    left = (right * (width - wide + 1)).floor()
    first = fits.int().argmax(1)[:, None, None].expand(-1, 1, 4)
    rectangles = torch.zeros(len(seeds), 4, dtype=torch.int32)
    rectangles[erased] = torch.stack((top, left, tall, wide), dim=2).gather(1, first)[:, 0].int()
    return rectangles


def _uniforms(seeds: Tensor, count: int) -> Tensor:
    """Returns the first `count` numbers of N generators, float64 (N, count) in [0, 1). seeds: int64 (N,).

    Each image has a generator of its own, so its numbers don't depend on how a batch is cut.
    Source: SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
    """
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = seeds.numpy().view(np.uint64)[:, None] + steps  # uint64 wraps around, as it should
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return torch.from_numpy((bits >> np.uint64(11)) * 2.0**-53)
