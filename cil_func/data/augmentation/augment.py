"""Random transforms of a batch of uint8 images.

An `Augment` is two functions: `draw` makes all random numbers, on the host, and `apply` is a pure function of
images and draws. So draws belong to the epoch and not to whoever applies them. `device` does everything in
batches where the images are; `pil` leaves RandAugment to timm and Pillow, image by image on the host.
"""

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from cil_func import rng
from cil_func.data.augmentation import geometry, kernels, operations, randaugment, rectangles
from cil_func.data.augmentation.operations import upload

Draws = dict[str, Tensor]

_JITTER = {"brightness": kernels.brightness, "contrast": kernels.contrast, "saturation": kernels.color}
# Pixels that are worked on at a time: on a CPU they stay in the cache, on a GPU they bound the working memory. With
# `_pixels_of` an image they also bound the int32 indices of `image_geometry` and `image_ops`.
CHUNK_PIXELS = {"cpu": 1 << 21, "cuda": 1 << 25}
_TABLE_ENTRIES = 256  # of a channel, in `image_ops.lookup`
_timm_lock = threading.Lock()  # timm draws from the process's global generators: one batch at a time


@dataclass(frozen=True)
class Augment:
    """draw(key, count) -> {name: (count, ...)}; apply(images uint8 (B, H, W, 3), draws of B) -> images uint8.

    Draws are made and stay on the host; images may be on any device, and come back on it.
    by_pillow: whether Pillow works image by image, so that a thread of its own is worth having.
    """

    draw: Callable[[int, int], Draws]
    apply: Callable[[Tensor, Draws], Tensor]
    by_pillow: bool = False


def make(
    *,
    backend: str,
    auto_augment: str = "",
    crop_padding: int = 0,
    flip: bool = False,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    erasing: float = 0.0,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
) -> Augment:
    """Crop, flip, brightness, contrast, saturation, RandAugment, erasing, in this order.

    backend: "device" or "pil", who does RandAugment; auto_augment: timm's string, like
    "rand-m9-mstd0.5-inc1", "" for none; crop_padding: pixels of zeros around the image, of which a window of the
    image's size is cut; flip: left-right, probability 0.5; brightness, contrast, saturation: each a factor uniform
    in [max(0, 1 - value), 1 + value], as torchvision's ColorJitter; erasing: probability that a rectangle is filled,
    of area and aspect as timm's RandomErasing draws them; mean: of each channel, 0..1, what RandAugment fills
    borders and erasing rectangles with.
    With everything off, images pass as they are. Raises ConfigError for a string that isn't RandAugment.
    Sources: torchvision's ColorJitter on Pillow; Zhong et al. 2020 (arXiv:1708.04896); see `randaugment`.
    """
    fill = tuple(min(255, round(255 * value)) for value in mean)
    policy = randaugment.parse(auto_augment) if auto_augment else None
    if policy and backend == "device":
        draw_policy, apply_policy = partial(randaugment.draw, policy), _by_device
    elif policy:
        draw_policy, apply_policy = _draw_seeds, partial(_by_pillow, auto_augment=auto_augment)
    else:
        draw_policy, apply_policy = (lambda *_: {}), None
    jitter = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    draw = partial(
        _draw, crop_padding=crop_padding, flip=flip, jitter=jitter, draw_policy=draw_policy, erasing=erasing
    )
    chunk = partial(_apply_chunk, crop_padding=crop_padding, apply_policy=apply_policy, fill=fill)
    apply = partial(_apply, apply_chunk=chunk, padding=crop_padding)
    return Augment(draw, apply, by_pillow=bool(policy) and backend == "pil")


device = partial(make, backend="device")
pil = partial(make, backend="pil")


def _draw(
    key: int,
    count: int,
    *,
    crop_padding: int,
    flip: bool,
    jitter: dict[str, float],
    draw_policy: Callable[[int, int], Draws],
    erasing: float,
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
    for name, strength in jitter.items():
        if strength:
            low = max(0.0, 1.0 - strength)
            span = 1.0 + strength - low
            draws[name] = torch.rand(count, generator=generator(name)) * span + low
    draws |= draw_policy(key, count)
    if erasing:
        draws["erasing"] = rectangles.draw(rng.fold_in(key, "erasing"), count, probability=erasing)
    return draws


def _draw_seeds(key: int, count: int) -> Draws:
    generator = rng.generator(rng.fold_in(key, "seed"))
    return {"seed": torch.randint(2**63 - 1, (count,), generator=generator)}


def _apply(
    images: Tensor, draws: Draws, *, apply_chunk: Callable[[Tensor, Draws], Tensor], padding: int
) -> Tensor:
    """images uint8 (B, H, W, 3) -> uint8 (B, H, W, 3), some images at a time."""
    if not draws or not len(images):
        return images
    count, height, width, _ = images.shape
    size = max(1, CHUNK_PIXELS[images.device.type] // _pixels_of(height, width, padding))
    chunks = [slice(start, start + size) for start in range(0, count, size)]
    return torch.cat([apply_chunk(images[c], {name: draw[c] for name, draw in draws.items()}) for c in chunks])


def _pixels_of(height: int, width: int, padding: int) -> int:
    """What one image counts for in CHUNK_PIXELS: its padded pixels, or the entries of its table if those are more."""
    return max((height + 2 * padding) * (width + 2 * padding), _TABLE_ENTRIES)


def _apply_chunk(
    images: Tensor,
    draws: Draws,
    *,
    crop_padding: int,
    apply_policy: Callable[..., Tensor] | None,
    fill: tuple[int, ...],
) -> Tensor:
    there = images.device
    _, height, width, _ = images.shape
    if "top" in draws:
        top, left = (upload(draws[side].int(), there) for side in ("top", "left"))
        images = geometry.crop(images, top, left, padding=crop_padding)
    planes = rearrange(images, "b h w c -> b c h w").contiguous()
    if "flip" in draws:
        planes = geometry.flip(planes, upload(draws["flip"].int(), there))
    for name, change in _JITTER.items():
        if name in draws:
            planes = change(planes, upload(draws[name], there))
    colour = torch.stack([torch.full((), value, dtype=torch.uint8, device=there) for value in fill])  # (3,)
    if apply_policy:
        planes = apply_policy(planes, draws, fill=colour)
    if "erasing" in draws:
        boxes = rectangles.resolve(draws["erasing"], height, width)
        planes = geometry.erase(planes, upload(boxes, there), fill=colour)
    return torch.stack(planes.unbind(1), dim=-1)  # twice as fast as a permuted copy on a CPU


def _by_device(planes: Tensor, draws: Draws, *, fill: Tensor) -> Tensor:
    return operations.apply(planes, draws["operation"], draws["argument"], fill=fill)


def _by_pillow(planes: Tensor, draws: Draws, *, auto_augment: str, fill: Tensor) -> Tensor:
    """Planes through a transform that draws from `random` and `numpy.random`, each image under its own seed.

    Both global states are put back afterwards. Whoever draws from them in another thread meanwhile
    disturbs this batch; nothing in this package does.
    """
    arrays = rearrange(planes, "b c h w -> b h w c").cpu().contiguous().numpy()
    transform = _rand_augment(auto_augment, min(arrays.shape[1:3]), tuple(fill.tolist()))
    out = np.empty_like(arrays)
    with _timm_lock:
        states = random.getstate(), np.random.get_state()
        try:
            for slot, array, seed in zip(out, arrays, draws["seed"].tolist(), strict=True):
                random.seed(seed)
                np.random.seed(seed & 0xFFFFFFFF)  # numpy takes 32 bits
                slot[:] = np.asarray(transform(Image.fromarray(array)))
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
    return rearrange(torch.from_numpy(out), "b h w c -> b c h w").contiguous().to(planes.device)


@lru_cache(maxsize=8)
def _rand_augment(config: str, size: int, fill: tuple[int, ...]) -> Callable[[Image.Image], Image.Image]:
    """timm's RandAugment with the settings of timm's own `create_transform` at image size `size`, bicubic."""
    from timm.data.auto_augment import rand_augment_transform  # late: timm costs seconds

    hparams = {
        "translate_const": int(size * 0.45),
        "img_mean": fill,
        "interpolation": Image.Resampling.BICUBIC,
    }
    return rand_augment_transform(config, hparams)
