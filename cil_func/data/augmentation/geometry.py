"""Operations that move or cover pixels, on a batch, each image with its own argument.

Images are uint8 planes (N, 3, H, W), except in `crop`. All arguments are on the images' device.
Pixels are read by `index_select` from the flat bytes, with indices that are made on the images' device: on a CPU that
is 10 times as fast as indexing by several tensors, and it never waits for a GPU. The indices are int32, so a batch must
have less than 2**31 bytes, padding included; `augment` cuts batches accordingly. As in `kernels`, an image's result
depends neither on the device nor on the other images of the batch.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from cil_func.data.augmentation.kernels import to_uint8
from cil_func.data.augmentation.uploads import upload

_REACH = 2  # the cubic reads at most this many pixels beyond the image
# Added to float32 sums, which may be just below an integer that Pillow's float64 sums reach: areas of one colour must
# not change.
_SHORTFALL = 2e-4


def crop(images: Tensor, top: Tensor, left: Tensor, *, padding: int) -> Tensor:
    """Pads each image with zeros and returns a window of the image's own size, uint8 (N, H, W, 3).

    images: uint8 (N, H, W, 3), not planes. padding: pixels of zeros on each side. top, left: int32 (N,), 0 to 2 *
    padding, the window's first row and column in the padded image.
    """
    count, height, width, _ = images.shape
    padded = pad(images, (0, 0, padding, padding, padding, padding))  # (N, H + 2 p, W + 2 p, 3)
    pitch = width + 2 * padding
    image = torch.arange(count, dtype=torch.int32, device=images.device) * (height + 2 * padding)
    row = torch.arange(height, dtype=torch.int32, device=images.device)
    starts = ((image + top)[:, None] + row) * pitch + left[:, None]  # (N, H), in pixels
    runs = padded.flatten().unfold(0, 3 * width, 1)  # a row is read as one run of bytes
    return runs.index_select(0, (3 * starts).flatten()).view(images.shape)


def mirror(images: Tensor, flip: Tensor) -> Tensor:
    """Returns images (B, H, W, 3), those mirrored left to right for which flip, bool (B,) on the host, is true."""
    rows, places = torch.nonzero(flip).flatten(), torch.arange(len(images))
    places[rows] = len(images) + torch.arange(len(rows))
    rows, places = (upload(each, images.device) for each in (rows, places))
    # Half the time of writing the mirrored ones over a copy by their numbers, which goes byte by byte.
    return torch.cat((images, images.index_select(0, rows).flip(2))).index_select(0, places)


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Returns the images, mirrored left to right where `mirrored` is 1.

    images: uint8 planes (N, 3, H, W); mirrored: int32 (N,), 0 or 1.
    """
    count = len(images)
    chosen = torch.arange(count, dtype=torch.int32, device=images.device) + count * mirrored
    return torch.cat((images, images.flip(3))).index_select(0, chosen)


def slide(images: Tensor, shifts: Tensor, *, fill: Tensor) -> Tensor:
    """Moves each row of each image to the left by its own shift: shears and translations, by Pillow's bicubic.

    images: uint8 planes (N, 3, H, W). shifts: float64 (N, H), in pixels; a negative one moves the row to the right.
    fill: uint8 (3,), the colour of what comes in from outside.
    Returns planes of the same shape. Values differ from Pillow's by at most 1, since Pillow computes in float64.
    A row moves as a whole, so it is read once, as one run of bytes, and its weights are computed once.
    """
    count, _, height, width = images.shape
    whole = shifts.floor()
    pitch = width + 2 * _REACH
    rows = images.flatten(0, 2)  # (R, W), R = 3 N H
    wide = pad(rows, (_REACH, _REACH, 1, 1))  # a row above and below: what is read there is painted over
    wide[1:-1, :_REACH] = rows[:, :1]
    wide[1:-1, -_REACH:] = rows[:, -1:]
    row = torch.arange(1, len(rows) + 1, dtype=torch.int32, device=images.device).view(count, 3, height)
    first = whole.clamp(-width - 1, width).int() + (_REACH - 1)  # (N, H), the first column to read
    runs = wide.flatten().unfold(0, width + 3, 1).index_select(0, (row * pitch + first[:, None]).flatten())
    runs = runs.view(count, 3, height, width + 3).float()
    weights = _cubic((shifts - whole).float()[:, None, :, None])  # (N, 1, H, 1) each
    out = _sum(runs[..., tap : tap + width] * weight for tap, weight in enumerate(weights))
    centre = torch.arange(width, dtype=torch.float64, device=images.device) + 0.5 + shifts[:, :, None]  # (N, H, W)
    return paint(_finish(out), (centre < 0) | (centre >= width), fill)


def rotate(images: Tensor, matrices: Tensor, *, fill: Tensor) -> Tensor:
    """Applies an affine map to each image by Pillow's bicubic: pixel (x, y) gets what was at

        (a x + b y + c, d x + e y + f)

    images: uint8 planes (N, 3, H, W). matrices: float64 (N, 6), a to f, for pixel centres at half-integers.
    fill: uint8 (3,), the colour of what comes in from outside.
    Returns planes of the same shape. Values differ from Pillow's by at most 1, since Pillow computes in float64.
    Source: Pillow 12.3, `Geometry.c`: a cubic with a = -1, the edge pixels repeated outwards, cut to uint8.
    """
    count, _, height, width = images.shape
    x = torch.arange(width, dtype=torch.float64, device=images.device) + 0.5  # (W,)
    y = torch.arange(height, dtype=torch.float64, device=images.device)[:, None] + 0.5  # (H, 1)
    a, b, c, d, e, f = matrices.t()[:, :, None, None]  # (N, 1, 1) each
    columns, weights_x, outside_x = _taps(a * x + (b * y + c), width)
    rows, weights_y, outside_y = _taps(d * x + (e * y + f), height)
    pitch = width + 2 * _REACH
    plane = pitch * (height + 2 * _REACH)
    starts = _starts(count, 3 * plane, plane, images.device)
    index = ((rows * pitch + columns)[:, None] + starts).flatten()  # (N 3 H W,)
    flat = _with_edges(images).flatten()

    def line(row: int) -> Tensor:
        taps = (_read(flat[row * pitch + tap :], index, count, height).float() for tap in range(4))
        return _sum(tap.mul_(weight) for tap, weight in zip(taps, weights_x, strict=True))

    out = _sum(line(row).mul_(weight) for row, weight in enumerate(weights_y))
    return paint(_finish(out), outside_x | outside_y, fill)


def erase(images: Tensor, boxes: Tensor, *, fill: Tensor) -> Tensor:
    """Returns the images with one rectangle of each filled by the colour `fill`; the arguments stay as they are.

    images: uint8 planes (N, 3, H, W). boxes: int32 (N, 4), each (first row, first column, number of rows, number of
    columns); a box of no rows or columns changes nothing. fill: uint8 (3,).
    """
    _, _, height, width = images.shape
    top, left, tall, wide = boxes.t()[:, :, None]  # (N, 1) each
    row = torch.arange(height, dtype=torch.int32, device=images.device)
    column = torch.arange(width, dtype=torch.int32, device=images.device)
    rows = (row >= top) & (row < top + tall)  # (N, H)
    columns = (column >= left) & (column < left + wide)  # (N, W)
    return paint(images, rows[:, :, None] & columns[:, None, :], fill)


def paint(images: Tensor, covered: Tensor, fill: Tensor) -> Tensor:
    """Returns the images with the colour `fill` where `covered` is true; the arguments stay as they are.

    images: uint8 planes (N, 3, H, W); covered: bool (N, H, W); fill: uint8 (3,). All on one device.
    Computed by operations on bits, 7 times as fast as `torch.where` on a CPU.
    """
    covered = covered[:, None].to(torch.uint8).neg_()  # 255 where covered
    return (images & ~covered).bitwise_or_(fill[:, None, None] & covered)


def _taps(position: Tensor, size: int) -> tuple[Tensor, list[Tensor], Tensor]:
    """Returns which pixels of an axis are read for each position, and with which weights.

    position: float64 (N, H, W), in pixels. size: pixels of the axis. Returns (the first of four pixels, int32 (N, H,
    W), counted from _REACH before the axis; their four weights, float32 (N, 1, H, W) each; bool (N, H, W), whether the
    position is off the axis, where the pixels don't matter).
    """
    from_centre = position - 0.5
    before = from_centre.floor()
    weights = _cubic((from_centre - before).float()[:, None])
    first = before.clamp_(-1, size - 1).int() + (_REACH - 1)
    return first, weights, (position < 0) | (position >= size)


def _cubic(d: Tensor) -> list[Tensor]:
    """Returns the weights of the pixels at -1, 0, 1 and 2 for a point at d, each of d's shape. d: float32, 0..1."""
    square = d * d
    bulge = square - square * d
    return [bulge - d + square, 1.0 - square - bulge, d + bulge, -bulge]


def _sum(terms: Iterator[Tensor]) -> Tensor:
    """Adds up all terms, in place in the first one.

    One operation after the other: products and sums that are fused are rounded differently from device to device.
    """
    total = next(terms)
    for term in terms:
        total.add_(term)
    return total


def _finish(values: Tensor) -> Tensor:
    return to_uint8(values.add_(_SHORTFALL))


def _read(flat: Tensor, index: Tensor, count: int, height: int) -> Tensor:
    return flat.index_select(0, index).view(count, 3, height, -1)


def _starts(count: int, image: int, channel: int, device: torch.device) -> Tensor:
    """Returns at which byte each channel of each image begins, int32 (N, 3, 1, 1).

    count: N. image, channel: the distances in bytes between two images and between two channels.
    """
    images = torch.arange(count, dtype=torch.int32, device=device)[:, None, None, None] * image
    return images + torch.arange(3, dtype=torch.int32, device=device)[:, None, None] * channel


def _with_edges(images: Tensor) -> Tensor:
    """Returns planes (N, 3, H, W) with their edges repeated _REACH pixels outwards, on all four sides.

    torch's own padding lacks uint8 on CUDA.
    """
    wide = pad(images, (_REACH,) * 4)
    wide[:, :, _REACH:-_REACH, :_REACH] = images[..., :1]
    wide[:, :, _REACH:-_REACH, -_REACH:] = images[..., -1:]
    wide[:, :, :_REACH] = wide[:, :, _REACH : _REACH + 1]
    wide[:, :, -_REACH:] = wide[:, :, -_REACH - 1 : -_REACH]
    return wide
