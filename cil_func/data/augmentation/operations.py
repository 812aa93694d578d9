"""A batch in which each image has an operation and an argument of its own, by number.

Draws stay on the host: which images get which operation is known there, so they are sorted by operation and
each operation is computed once for all its images, without waiting for the device.
"""

import math
from itertools import chain, pairwise

import torch
from torch import Tensor

from cil_func.data.augmentation import geometry, kernels

_TABLES = {
    "auto_contrast": kernels.auto_contrast_table,
    "equalize": kernels.equalize_table,
    "invert": kernels.invert_table,
    "posterize": kernels.posterize_table,
    "solarize": kernels.solarize_table,
    "solarize_add": kernels.solarize_add_table,
    "brightness": kernels.brightness_table,
    "contrast": kernels.contrast_table,
}
_BLENDS = {"color": kernels.color, "sharpness": kernels.sharpness, "blur": kernels.gaussian_blur}
_SLIDES = (("shear_x", "translate_x"), ("shear_y", "translate_y"))  # along rows, along columns
# In the order in which they are computed; the position is the number in the draws
OPERATIONS = ("none", *_TABLES, *_BLENDS, *chain(*_SLIDES), "rotate")


def apply(images: Tensor, operation: Tensor, argument: Tensor, *, fill: Tensor) -> Tensor:
    """images: uint8 planes (N, 3, H, W); operation, argument: `draw`'s, of N, on the host; fill: uint8 (3,),
    for what comes in from outside. Returns uint8 planes (N, 3, H, W)."""
    for layer in range(operation.shape[1]):
        images = _layer(images, operation[:, layer].contiguous(), argument[:, layer].contiguous(), fill)
    return images


def pin(values: Tensor, device: torch.device) -> Tensor:
    """Values of the host where `upload` to `device` can read them without a copy; values that are there already stay.

    A copy into page-locked memory where `device` is a GPU: it reads that while the host goes on.
    """
    return values.pin_memory() if device.type == "cuda" and values.device.type == "cpu" else values


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Values of the host on the device, without waiting for it; values that are there already stay."""
    return pin(values, device).to(device, non_blocking=True)


def _layer(images: Tensor, operation: Tensor, argument: Tensor, fill: Tensor) -> Tensor:
    """Sorts the images by operation, computes each family at once, and puts them back in order."""
    order = operation.argsort(stable=True)
    ends = torch.bincount(operation, minlength=len(OPERATIONS)).cumsum(0).tolist()
    argument = argument[order]
    spans = {name: slice(end[0], end[1]) for name, end in zip(OPERATIONS, pairwise([0, *ends]), strict=True)}
    images = images.index_select(0, upload(order, images.device))
    arguments = upload(argument, images.device)
    parts = [images[spans["none"]]]
    tables = [
        (images[spans[name]], arguments[spans[name]], table) for name, table in _TABLES.items() if _any(spans[name])
    ]
    if tables:
        table = torch.cat([table(part, values) for part, values, table in tables])
        parts.append(kernels.lookup(images[ends[0] : ends[len(_TABLES)]], table))
    for name, compute in _BLENDS.items():
        if _any(spans[name]):
            parts.append(compute(images[spans[name]], arguments[spans[name]]))
    for along_columns, (shear, translate) in enumerate(_SLIDES):
        here = slice(spans[shear].start, spans[translate].stop)
        if _any(here):
            moved = images[here].transpose(2, 3).contiguous() if along_columns else images[here]
            shifts = upload(_shifts(argument[spans[shear]], argument[spans[translate]], moved.shape), images.device)
            moved = geometry.slide(moved, shifts, fill=fill)
            parts.append(moved.transpose(2, 3).contiguous() if along_columns else moved)
    if _any(spans["rotate"]):
        centre = images.shape[2] / 2, images.shape[3] / 2
        matrices = [_rotation(degrees, *centre) for degrees in argument[spans["rotate"]].tolist()]
        matrices = upload(torch.tensor(matrices, dtype=torch.float64), images.device)
        parts.append(geometry.rotate(images[spans["rotate"]], matrices, fill=fill))
    return torch.cat(parts).index_select(0, upload(order.argsort(), images.device))


def _shifts(shears: Tensor, translations: Tensor, shape: torch.Size) -> Tensor:
    """Pixels by which each row moves, sheared images first: float64 (N, rows). shape: of the images, (N, 3, rows,
    pixels); shears: pixels a row; translations: shares of a row."""
    rows, pixels = shape[2:]
    centres = torch.arange(rows, dtype=torch.float64) + 0.5
    return torch.cat((shears[:, None] * centres, (translations * pixels)[:, None].expand(-1, rows)))


def _rotation(degrees: float, y: float, x: float) -> tuple[float, ...]:
    """Matrix of `image_geometry.rotate` about (x, y), counter-clockwise.

    One by one: in a vector, the last bit of a sine depends on how many others there are.
    """
    angle = -math.radians(degrees % 360.0)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)  # right angles are exact
    return cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y


def _any(span: slice) -> bool:
    return span.start < span.stop
