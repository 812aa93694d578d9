"""Random changes of a batch of uint8 images.

An `Augment` is two functions. `draw` makes all random numbers, on the host. `apply` is a pure function of images and
draws. So the draws of an epoch are the same however many processes and threads apply them. With the backend `device`
all changes are computed in batches where the images are. With `pil`, timm and Pillow do RandAugment on the host, image
by image.
"""

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from cil_func import rng
from cil_func.data.augmentation import geometry, kernels, operations, randaugment, rectangles
from cil_func.data.augmentation import window as windows
from cil_func.data.augmentation.uploads import upload

Draws = dict[str, Tensor]

_JITTER = {"brightness": kernels.brightness, "contrast": kernels.contrast, "saturation": kernels.color}
# How many pixels are computed at a time: on a CPU they stay in the cache, on a GPU the number bounds the memory. With
# `_pixels_of` each image it also bounds the int32 indices of `geometry` and `kernels`.
CHUNK_PIXELS = {"cpu": 1 << 21, "cuda": 1 << 25}
_TABLE_ENTRIES = 256  # of a channel, in `kernels.lookup`
_timm_lock = threading.Lock()  # timm draws from the global generators of the process, so one batch at a time


class Draw(Protocol):
    """(key, count) -> the draws for `count` images: {name: tensor (count, ...)} on the host."""

    def __call__(self, key: int, count: int, /) -> Draws: ...


class Apply(Protocol):
    """(images uint8 (B, H, W, 3), the draws of these images) -> changed images of that shape, on the same device."""

    def __call__(self, images: Tensor, draws: Draws, /) -> Tensor: ...


class ApplyPolicy(Protocol):
    """(planes uint8 (B, 3, H, W), draws) -> planes. fill: uint8 (3,), the colour of what comes in from outside."""

    def __call__(self, planes: Tensor, draws: Draws, /, *, fill: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Augment:
    """A way to change images at random.

    draw: makes the random numbers. apply: changes images by them. by_pillow: whether Pillow computes image by image, so
    that `apply` is done where images are loaded, by processes or a thread of their own.
    window: the smallest share of an image's area that a random window takes, which is cut out where the image is
    decoded, before `apply`, see `window.box`; 0: no window is cut.
    """

    draw: Draw
    apply: Apply
    by_pillow: bool = False
    window: float = 0.0

    def loading(self, draws: Draws) -> Draws:
        """Returns the draws that are used where images are loaded; the others are for `apply` later."""
        return draws if self.by_pillow else {name: draw for name, draw in draws.items() if name == "window"}


def make(
    *,
    backend: str,
    auto_augment: str = "",
    window: float = 0.0,
    crop_padding: int = 0,
    flip: bool = False,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    erasing: float = 0.0,
    mean: Sequence[float] = (0.5, 0.5, 0.5),
) -> Augment:
    """Returns the `Augment` that crops, flips, changes the colours, applies RandAugment and erases, in this order.

    backend: what computes RandAugment, "device" or "pil". auto_augment: timm's string for it, such as
    "rand-m9-mstd0.5-inc1"; "" for none.
    window: see `Augment`.
    crop_padding: how many pixels of zeros are put around the image before a window of its own size is cut out.
    flip: whether to mirror left to right with probability 0.5.
    brightness, contrast, saturation: for each a factor is drawn from [max(0, 1 - value), 1 + value], as torchvision's
    ColorJitter does; 0: off. They come in this order.
    erasing: the probability that a rectangle is filled, of area and aspect as in timm's RandomErasing.
    mean: of each channel of the data, 0..1; the colour of erased rectangles and of borders that RandAugment moves in.
    With everything off images are returned as they are. Raises ConfigError for a string that isn't RandAugment.
    Sources: torchvision's ColorJitter on Pillow; Zhong et al. 2020 (arXiv:1708.04896); see `randaugment`.
    """
    fill = tuple(min(255, round(255 * value)) for value in mean)
    policy = randaugment.parse(auto_augment) if auto_augment else None
    draw_policy: Draw | None = None
    apply_policy: ApplyPolicy | None = None
    if policy and backend == "device":
        draw_policy, apply_policy = partial(randaugment.draw, policy), _by_device
    elif policy:
        draw_policy, apply_policy = _draw_seeds, partial(_by_pillow, auto_augment=auto_augment)
    jitter = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    draw = partial(
        _draw, window=window, crop_padding=crop_padding, flip=flip, jitter=jitter, draw_policy=draw_policy,
        erasing=erasing,
    )  # fmt: skip
    chunk = partial(_apply_chunk, crop_padding=crop_padding, apply_policy=apply_policy, fill=fill)
    apply = partial(_apply, apply_chunk=chunk, padding=crop_padding)
    return Augment(draw, apply, by_pillow=bool(policy) and backend == "pil", window=window)


device = partial(make, backend="device")
pil = partial(make, backend="pil")


def _draw(
    key: int, count: int, *, window: float, crop_padding: int, flip: bool, jitter: dict[str, float],
    draw_policy: Draw | None, erasing: float,
) -> Draws:  # fmt: skip
    """Makes the draws for `count` images: {name: tensor (count, ...)}, without those of changes that are off.

    key: an int, a seed. Each change has a key of its own derived from it, so turning one on changes no other draw.
    jitter: {name in _JITTER: its strength}. draw_policy: called as draw_policy(key, count). For the others see `make`.
    """

    def generator(purpose: str) -> torch.Generator:
        return rng.generator(rng.fold_in(key, purpose))

    draws: Draws = {}
    if window:
        draws["window"] = windows.draw(rng.fold_in(key, "window"), count)
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
    draws |= draw_policy(key, count) if draw_policy else {}
    if erasing:
        draws["erasing"] = rectangles.draw(rng.fold_in(key, "erasing"), count, probability=erasing)
    return draws


def _draw_seeds(key: int, count: int) -> Draws:
    """Draws a seed for each image, for `_by_pillow`: {"seed": int64 (count,)}."""
    generator = rng.generator(rng.fold_in(key, "seed"))
    return {"seed": torch.randint(2**63 - 1, (count,), generator=generator)}


def _apply(images: Tensor, draws: Draws, *, apply_chunk: Apply, padding: int) -> Tensor:
    """Applies `apply_chunk` to a few images at a time: uint8 (B, H, W, 3) -> uint8 (B, H, W, 3).

    padding: pixels that `apply_chunk` will put around each image.
    """
    if not draws or not len(images):
        return images
    count, height, width, _ = images.shape
    size = max(1, CHUNK_PIXELS[images.device.type] // _pixels_of(height, width, padding))
    chunks = [slice(start, start + size) for start in range(0, count, size)]
    return torch.cat([apply_chunk(images[c], {name: draw[c] for name, draw in draws.items()}) for c in chunks])


def _pixels_of(height: int, width: int, padding: int) -> int:
    """Returns how many of CHUNK_PIXELS an image takes: its padded pixels, or the entries of its table if more."""
    return max((height + 2 * padding) * (width + 2 * padding), _TABLE_ENTRIES)


def _apply_chunk(
    images: Tensor,
    draws: Draws,
    *,
    crop_padding: int,
    apply_policy: ApplyPolicy | None,
    fill: tuple[int, ...],
) -> Tensor:
    there = images.device
    _, height, width, _ = images.shape
    if "top" in draws:
        top, left = (upload(draws[side].int(), there) for side in ("top", "left"))
        images = geometry.crop(images, top, left, padding=crop_padding)
    if draws.keys() <= {"top", "left", "flip"}:  # planes would cost twice the time of a flip
        return geometry.mirror(images, draws["flip"]) if "flip" in draws else images
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
    """Applies timm's RandAugment to each image under a seed of its own: planes (B, 3, H, W) -> planes of that shape.

    draws: has "seed", int64 (B,). auto_augment: timm's string. fill: uint8 (3,).
    timm draws from the global states of `random` and `numpy.random`, which are restored afterwards. Another thread that
    draws from them meanwhile would disturb this batch; nothing in this package does.
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
    """Returns timm's RandAugment, bicubic, with the settings of `create_transform`: a function of a Pillow image.

    config: timm's string. size: the shorter side of the images, in pixels. fill: the RGB colour of what comes in.
    """
    from timm.data.auto_augment import rand_augment_transform  # late: timm costs seconds

    hparams = {
        "translate_const": int(size * 0.45),
        "img_mean": fill,
        "interpolation": Image.Resampling.BICUBIC,
    }
    return rand_augment_transform(config, hparams)
