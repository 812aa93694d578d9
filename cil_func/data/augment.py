"""Random transforms of a batch of uint8 images.

An `Augment` is two functions: `draw` makes all random numbers, `apply` is a pure function of images and
draws. So draws belong to the epoch and not to whoever applies them, and a version that runs on the device
can take the place of `pil` by giving its own two functions.
"""

import random
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from cil_func import rng
from cil_func.errors import ConfigError

Draws = dict[str, Tensor]

# timm ignores a section that it can't read; here "rand-inc" or "rand-mstdinf" is refused
_RAND_SECTION = re.compile(r"(m|n|inc|mmax)\d+|(mstd|p)\d+(\.\d+)?|t(weights|3a|3aw)")
_timm_lock = threading.Lock()  # timm draws from the process's global generators: one batch at a time


@dataclass(frozen=True)
class Augment:
    """draw(key, count) -> {name: (count,)}; apply(images uint8 (B, H, W, 3), draws of B) -> images uint8."""

    draw: Callable[[int, int], Draws]
    apply: Callable[[Tensor, Draws], Tensor]


def pil(
    *,
    auto_augment: str = "",
    crop_padding: int = 0,
    flip: bool = False,
    brightness: float = 0.0,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
) -> Augment:
    """Crop, flip and brightness on the whole batch, then timm's RandAugment by Pillow, image by image.

    auto_augment: timm's string, like "rand-m9-mstd0.5-inc1", "" for none; crop_padding: pixels of zeros
    around the image, of which a window of the image's size is cut; flip: left-right, probability 0.5;
    brightness: factor uniform in [max(0, 1 - brightness), 1 + brightness], as torchvision's ColorJitter;
    mean: of each channel, 0..1, what RandAugment fills borders with.
    With everything off, images pass as they are. Raises ConfigError for a string that timm doesn't take.
    """
    fill = tuple(min(255, round(255 * value)) for value in mean)
    if auto_augment:
        _rand_augment(auto_augment, 32, fill)  # any size: a bad string should fail now, not in a worker
    draw = partial(
        _draw, auto_augment=bool(auto_augment), crop_padding=crop_padding, flip=flip, brightness=brightness
    )
    return Augment(draw, partial(_apply, auto_augment=auto_augment, crop_padding=crop_padding, fill=fill))


def _draw(
    key: int, count: int, *, auto_augment: bool, crop_padding: int, flip: bool, brightness: float
) -> Draws:
    """Draws for `count` images. Each purpose has a key of its own: turning one on leaves the others be."""

    def generator(purpose: str) -> torch.Generator:
        return rng.generator(rng.fold_in(key, purpose))

    draws: Draws = {}
    if crop_padding:
        for side in ("top", "left"):
            draws[side] = torch.randint(2 * crop_padding + 1, (count,), generator=generator(side))
    if flip:
        draws["flip"] = torch.rand(count, generator=generator("flip")) < 0.5
    if brightness:
        low = max(0.0, 1.0 - brightness)
        span = 1.0 + brightness - low
        draws["brightness"] = torch.rand(count, generator=generator("brightness")) * span + low
    if auto_augment:
        draws["seed"] = torch.randint(2**63 - 1, (count,), generator=generator("seed"))
    return draws


def _apply(
    images: Tensor, draws: Draws, *, auto_augment: str, crop_padding: int, fill: tuple[int, ...]
) -> Tensor:
    """images uint8 (B, H, W, 3) -> uint8 (B, H, W, 3)."""
    if "top" in draws or "flip" in draws:
        images = _crop_flip(images, draws, crop_padding)
    if "brightness" in draws:  # Pillow blends with black in float32 and cuts the fraction off
        factors = draws["brightness"].to(images.device)[:, None, None, None]  # (B, 1, 1, 1)
        images = (images.float() * factors).clamp_(0, 255).to(torch.uint8)
    if "seed" in draws:
        transform = _rand_augment(auto_augment, min(images.shape[1:3]), fill)
        images = _by_pillow(images, draws["seed"].tolist(), transform)
    return images


def _crop_flip(images: Tensor, draws: Draws, crop_padding: int) -> Tensor:
    """Zero-padded crop, then left-right flip, in one gather: a flip only reverses the columns gathered."""
    count, height, width, _ = images.shape
    device = images.device
    zeros = torch.zeros(count, dtype=torch.int64)
    top, left = (draws.get(side, zeros).to(device)[:, None] for side in ("top", "left"))  # (B, 1)
    flip = draws.get("flip", zeros.bool()).to(device)[:, None]  # (B, 1)
    column = torch.arange(width, device=device)[None]  # (1, W)
    rows = top + torch.arange(height, device=device)[None]  # (B, H)
    columns = left + torch.where(flip, width - 1 - column, column)  # (B, W)
    padded = pad(images, (0, 0, crop_padding, crop_padding, crop_padding, crop_padding))
    batch = torch.arange(count, device=device)[:, None, None]
    return padded[batch, rows[:, :, None], columns[:, None, :]]  # (B, H, W, 3)


def _by_pillow(images: Tensor, seeds: list[int], transform: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Applies a transform that draws from `random` and `numpy.random`, each image under its own seed.

    Both global states are put back afterwards. Whoever draws from them in another thread meanwhile
    disturbs this batch; nothing in this package does.
    """
    arrays = images.cpu().numpy()
    out = np.empty_like(arrays)
    with _timm_lock:
        states = random.getstate(), np.random.get_state()
        try:
            for slot, array, seed in zip(out, arrays, seeds, strict=True):
                random.seed(seed)
                np.random.seed(seed & 0xFFFFFFFF)  # numpy takes 32 bits
                slot[:] = np.asarray(transform(Image.fromarray(array)))
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
    return torch.from_numpy(out).to(images.device)


@lru_cache(maxsize=8)
def _rand_augment(config: str, size: int, fill: tuple[int, ...]) -> Callable[[Image.Image], Image.Image]:
    """timm's RandAugment with the settings of timm's own `create_transform` at image size `size`, bicubic."""
    from timm.data.auto_augment import rand_augment_transform  # late: timm costs seconds

    kind, *sections = config.split("-")
    try:
        unread = [section for section in sections if not _RAND_SECTION.fullmatch(section)]
        if kind != "rand" or unread:
            raise ValueError(f"can't read {unread[0] if kind == 'rand' else kind!r}")
        hparams = {
            "translate_const": int(size * 0.45),
            "img_mean": fill,
            "interpolation": Image.Resampling.BICUBIC,
        }
        return rand_augment_transform(config, hparams)
    except (AssertionError, ValueError, KeyError) as error:
        raise ConfigError(
            f"augment.auto_augment = {config!r}: {error}; give a RandAugment string of timm's, like "
            '"rand-m9-mstd0.5-inc1", or "" for none'
        ) from error
