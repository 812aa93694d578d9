"""Augmentation on a CPU: `python -m benchmarks.augment [--images N] [--repeats R] [--json PATH]`.

Compares timm's RandAugment on Pillow images with this package's on a batch: the same policy, one core, in one process,
in turn. Pillow's side gets Pillow images and returns arrays; this package's side gets and returns tensors.
"""

import statistics
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import measure
from cil_func.data.augmentation import augment, operations

POLICY = "rand-m9-mstd0.5-inc1"
FAMILIES = {
    "none": ("none",),
    "table": (
        *("auto_contrast", "equalize", "invert", "posterize"),
        *("solarize", "solarize_add", "brightness", "contrast"),
    ),
    "color": ("color",),
    "sharpness": ("sharpness",),
    "shear_translate": ("shear_x", "shear_y", "translate_x", "translate_y"),
    "rotate": ("rotate",),
}
_FILL = (129, 124, 112)  # CIFAR-100's mean


def main(arguments: list[str] | None = None) -> int:
    parser = measure.parser(__doc__)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args(arguments)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        conditions = measure.conditions("cpu", commit=options.commit)
        conditions |= {"policy": POLICY, "images": options.images, "image_size": 32, "repeats": options.repeats}
        found = figures(photographs(options.images), repeats=options.repeats)
    finally:
        torch.set_num_threads(threads)
    measure.table([("figure", "value"), *found.items()])
    print(measure.write("augment", found, conditions, options.json))
    return 0


def figures(images: Tensor, *, repeats: int) -> dict[str, float]:
    """Measures this package's augmentation and Pillow's. Returns {name of a figure: number}.

    Speedups are medians of paired ratios, rates are images a second by the median.
    images: uint8 (N, 32, 32, 3). repeats: how often each contender is called.
    """
    count = len(images)
    found: dict[str, float] = {}
    for name, settings in (("", {}), ("_pipeline", {"crop_padding": 4, "flip": True})):
        pil, ours = _timms(images, **settings), _ours(images, **settings)
        seconds = measure.paired(pil, ours, repeats=repeats)
        found[f"speedup_per_core{name}"] = measure.ratio(*seconds)
        found[f"pil{name}_images_per_second"] = count / statistics.median(seconds[0])
        found[f"device{name}_images_per_second"] = count / statistics.median(seconds[1])
    for size in (128, 512):
        seconds = measure.paired(_ours(images, batch=size), _ours(images), repeats=repeats)
        found[f"device_batch{size}_images_per_second"] = count / statistics.median(seconds[0])
    for name, members in FAMILIES.items():
        seconds, _ = measure.paired(_family(images, members), lambda: None, repeats=repeats)
        found[f"{name}_images_per_second"] = count / statistics.median(seconds)
    draw = augment.device(auto_augment=POLICY, crop_padding=4, flip=True).draw
    seconds, _ = measure.paired(lambda: draw(0, count), lambda: None, repeats=repeats)
    found["draws_per_second"] = count / statistics.median(seconds)
    return found


def photographs(count: int) -> Tensor:
    """Returns `count` random images as smooth as photographs, uint8 (N, 32, 32, 3).

    Nothing else in the images' content changes the times.
    """
    random = np.random.default_rng(0)
    images = []
    for _ in range(count):
        colours = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        images.append(np.asarray(colours.resize((32, 32), Image.Resampling.BICUBIC)))
    return torch.from_numpy(np.stack(images))


def _timms(images: Tensor, *, crop_padding: int = 0, flip: bool = False) -> Callable[[], list]:
    """Returns a function that applies the usual transforms of torchvision and timm to each image, one by one.

    The function returns a list of uint8 arrays (32, 32, 3). images: uint8 (N, 32, 32, 3).
    crop_padding: pixels of padding before a random crop, 0: no crop. flip: whether images are mirrored at random.
    """
    from timm.data.auto_augment import rand_augment_transform
    from torchvision import transforms

    hparams = {"translate_const": 14, "img_mean": _FILL, "interpolation": Image.Resampling.BICUBIC}
    chain = [transforms.RandomCrop(32, crop_padding)] if crop_padding else []
    chain += [transforms.RandomHorizontalFlip()] if flip else []
    chain = transforms.Compose([*chain, rand_augment_transform(POLICY, hparams)])
    pillow = [Image.fromarray(image) for image in images.numpy()]
    return lambda: [np.asarray(chain(image)) for image in pillow]


def _ours(images: Tensor, *, batch: int = 0, **settings) -> Callable[[], list]:
    """Returns a function that applies this package's augmentation to all images. It returns a list of batches.

    images: uint8 (N, 32, 32, 3), and so are the batches. batch: images of a batch; 0: all at once. settings: further
    keywords of `augment.device`. The random numbers are drawn before, and not measured.
    """
    ours = augment.device(auto_augment=POLICY, mean=[level / 255 for level in _FILL], **settings)
    draws = ours.draw(0, len(images))
    size = batch or len(images)
    parts = [slice(start, start + size) for start in range(0, len(images), size)]
    return lambda: [ours.apply(images[part], {n: draw[part] for n, draw in draws.items()}) for part in parts]


def _family(images: Tensor, members: tuple[str, ...]) -> Callable[[], list]:
    """Returns a function that applies the operations `members` to the images, one to each, in turn.

    images: uint8 (N, 32, 32, 3). It works in batches as large as those that a whole policy gives these operations.
    """
    names = [name for name in operations.OPERATIONS if name in members]
    count, size = len(images), 128 * len(names)
    codes = torch.tensor([operations.OPERATIONS.index(name) for name in names], dtype=torch.uint8)
    operation = codes[torch.arange(count) % len(codes)][:, None]
    argument = torch.tensor([_ARGUMENTS.get(name, 0.3) for name in names], dtype=torch.float64)
    argument = argument[torch.arange(count) % len(codes)][:, None]
    planes, fill = images.permute(0, 3, 1, 2).contiguous(), torch.tensor(_FILL, dtype=torch.uint8)
    parts = [slice(start, start + size) for start in range(0, count, size)]
    return lambda: [operations.apply(planes[p], operation[p], argument[p], fill=fill) for p in parts]


_ARGUMENTS = {"posterize": 1.0, "solarize": 26.0, "solarize_add": 99.0, "rotate": 27.0}


if __name__ == "__main__":
    raise SystemExit(main())
