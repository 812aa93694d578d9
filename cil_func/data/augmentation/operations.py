"""Applies RandAugment's operations to a batch in which each image has an operation and an argument of its own.

Which image gets which operation is known on the host. So the images are sorted by operation there, and each operation
is computed once for all of its images, without waiting for the device.
"""

import math
from itertools import chain, pairwise

import torch
from torch import Tensor

from cil_func.data.augmentation import geometry, kernels
from cil_func.data.augmentation.uploads import upload

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
# All operations, in the order in which they are computed. An operation's number in the draws is its position here.
OPERATIONS = ("none", *_TABLES, *_BLENDS, *chain(*_SLIDES), "rotate")


def apply(images: Tensor, operation: Tensor, argument: Tensor, *, fill: Tensor) -> Tensor:
    """Applies each image's operations, one layer after the other. Returns uint8 planes of the same shape.

    images: uint8 planes (N, 3, H, W). fill: uint8 (3,), on their device, the colour of what comes in from outside.
    operation: uint8 (N, L), for each of L layers a position in OPERATIONS. argument: float64 (N, L), in the operation's
    own unit. Both are on the host, from `randaugment.draw`.
    """
    for layer in range(operation.shape[1]):
        images = _layer(images, operation[:, layer].contiguous(), argument[:, layer].contiguous(), fill)
    return images


def _layer(images: Tensor, operation: Tensor, argument: Tensor, fill: Tensor) -> Tensor:
    """Applies one operation to each image: sorts by operation, computes each group at once, restores the order.

    images: uint8 planes (N, 3, H, W). operation: uint8 (N,). argument: float64 (N,). See `apply`.
    """
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
        turns = [_rotation(degrees, *centre) for degrees in argument[spans["rotate"]].tolist()]
        matrices = upload(torch.tensor(turns, dtype=torch.float64), images.device)
        parts.append(geometry.rotate(images[spans["rotate"]], matrices, fill=fill))
    return torch.cat(parts).index_select(0, upload(order.argsort(), images.device))


def _shifts(shears: Tensor, translations: Tensor, shape: torch.Size) -> Tensor:
    """Returns the shifts for `geometry.slide`, float64 (N, rows), in pixels; the sheared images come first.

    shears: float64 (S,), how many pixels a row moves more than the row before. translations: float64 (N - S,), in parts
    of a row's length. shape: of the images, (N, 3, rows, pixels of a row).
    """
    rows, pixels = shape[2:]
    centres = torch.arange(rows, dtype=torch.float64) + 0.5
    return torch.cat((shears[:, None] * centres, (translations * pixels)[:, None].expand(-1, rows)))


def _rotation(degrees: float, y: float, x: float) -> tuple[float, ...]:
    """Returns the matrix (a, ..., f) for `geometry.rotate` that turns an image counter-clockwise about (x, y).

    Computed for a single angle: the last bit of a sine in a vector depends on the vector's length.
    """
    angle = -math.radians(degrees % 360.0)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)  # right angles are exact
    return cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y


def _any(span: slice) -> bool:
    return span.start < span.stop
