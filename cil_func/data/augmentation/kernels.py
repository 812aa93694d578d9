"""Pillow's operations on pixel values, on a batch, each image with its own argument, to the same bits.

Images are uint8 planes (N, 3, H, W); arguments are (N,) on the images' device. Products and sums are
separate operations in an order that is exact or Pillow's own: nothing is contracted, so a result depends
neither on the device nor on which images come together. Sources: Pillow 12.3, `Blend.c`, `Filter.c`,
`Convert.c`, `BoxBlur.c`, `ImageOps.py`, `ImageEnhance.py`.
"""

import torch
from torch import Tensor

_BLUR_PASSES = 3  # box blurs that stand for one Gaussian


def to_uint8(values: Tensor) -> Tensor:
    """Float values to uint8: clamped to 0..255, the fraction cut off. `values` is used up."""
    return values.clamp_(0, 255).to(torch.int16).to(torch.uint8)  # by way of int16: three times as fast on a CPU


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Blends with black."""
    return to_uint8(images.float().mul_(_column(factors)))


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blends with the mean grey of the image."""
    return lookup(images, contrast_table(images, factors))


def color(images: Tensor, factors: Tensor) -> Tensor:
    """Blends with the image in grey; torchvision calls it saturation."""
    return _blend(_grey(images).float(), images, factors)


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Blends with the image smoothed by (1 1 1, 1 5 1, 1 1 1) / 13; the border pixels stay."""
    wide = images.to(torch.int16)
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]  # (N, 3, H - 2, W)
    centre = wide[:, :, 1:-1, 1:-1]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * centre  # 13 times the mean
    # a 13th and a half are at least 1/26 away from the next integer: float32 floors them right
    smooth = (total.float() * (1 / 13)).add_(0.5).floor_()
    out = images.clone()
    out[:, :, 1:-1, 1:-1] = _blend(smooth, images[:, :, 1:-1, 1:-1], factors)
    return out


def gaussian_blur(images: Tensor, radii: Tensor) -> Tensor:
    """Pillow's GaussianBlur: three box blurs along the rows, then three along the columns.

    radii: of each image, 0 < radius <= 2 pixels.
    """
    weights = _box_weights(radii)
    for _ in range(2):
        for _ in range(_BLUR_PASSES):
            images = _box_blur(images, weights)
        images = images.transpose(2, 3)
    return images.contiguous()


def lookup(images: Tensor, tables: Tensor) -> Tensor:
    """Replaces each value by its entry in its channel's table. tables: uint8 (N, 3, 256)."""
    channels = torch.arange(tables.shape[0] * 3, dtype=torch.int32, device=images.device)
    index = images.flatten(2).flatten(0, 1).int().add_(channels[:, None] * 256)  # (3 N, H W)
    return tables.flatten().index_select(0, index.flatten()).view_as(images)


def invert_table(images: Tensor, _: Tensor) -> Tensor:
    return _same_for_channels(255 - _levels(images).expand(len(images), 256))


def posterize_table(images: Tensor, bits: Tensor) -> Tensor:
    """Keeps the highest `bits` of 8; none for 0 or less."""
    dropped = (8 - bits.int()[:, None]).clamp(0, 8)
    return _same_for_channels(_levels(images) >> dropped << dropped)


def solarize_table(images: Tensor, thresholds: Tensor) -> Tensor:
    """Inverts values at or above the threshold."""
    levels = _levels(images)
    return _same_for_channels(torch.where(levels < thresholds[:, None], levels, 255 - levels))


def solarize_add_table(images: Tensor, added: Tensor) -> Tensor:
    """Adds to values below 128, up to 255."""
    levels = _levels(images)
    return _same_for_channels(torch.where(levels < 128, levels + added.int()[:, None], levels).clamp_(max=255))


def brightness_table(images: Tensor, factors: Tensor) -> Tensor:
    return _same_for_channels(_levels(images).float() * factors.float()[:, None])


def contrast_table(images: Tensor, factors: Tensor) -> Tensor:
    count = images.shape[2] * images.shape[3]
    mean = (_grey(images).sum((1, 2, 3)).double() / count + 0.5).floor().float()[:, None]  # (N, 1)
    return _same_for_channels((_levels(images) - mean).mul_(factors.float()[:, None]).add_(mean))


def auto_contrast_table(images: Tensor, _: Tensor) -> Tensor:
    """Stretches each channel to 0..255; a channel of one value stays. In float64, as Python computes it."""
    planes = images.flatten(2)  # (N, 3, H W)
    low, high = planes.amin(2, keepdim=True).double(), planes.amax(2, keepdim=True).double()  # (N, 3, 1)
    scale = torch.full_like(low, 255.0) / (high - low)  # a number over a tensor would round twice
    levels = _levels(images).double()
    stretched = levels * scale + -low * scale
    return to_uint8(torch.where(high > low, stretched, levels))


def equalize_table(images: Tensor, _: Tensor) -> Tensor:
    """Evens each channel's histogram out; a channel that gives no step of one pixel or more stays."""
    count = len(images)
    channels = torch.arange(count * 3, dtype=torch.int32, device=images.device)
    index = images.flatten(2).flatten(0, 1).int().add_(channels[:, None] * 256).flatten()
    one = torch.ones((), dtype=torch.int32, device=images.device)
    # index_add_ and not bincount, which waits for the device
    histogram = one.new_zeros(count * 3 * 256).index_add_(0, index, one.expand(len(index))).view(count, 3, 256)
    highest = images.flatten(2).amax(2, keepdim=True).long()  # (N, 3, 1)
    total = images.shape[2] * images.shape[3]
    step = (total - histogram.gather(2, highest)) // 255
    below = histogram.cumsum(2, dtype=torch.int32) - histogram
    even = torch.div(step // 2 + below, step.clamp(min=1), rounding_mode="floor").clamp_(max=255)
    return torch.where(step > 0, even, _levels(images)).to(torch.uint8)


def _levels(images: Tensor) -> Tensor:
    return torch.arange(256, dtype=torch.int32, device=images.device)


def _same_for_channels(table: Tensor) -> Tensor:
    """(N, 256) of any type -> uint8 (N, 3, 256)."""
    return to_uint8(table)[:, None].expand(-1, 3, -1)


def _column(values: Tensor) -> Tensor:
    return values.float()[:, None, None, None]  # (N, 1, 1, 1)


def _blend(base: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    """base + factor (image - base) in float32, product and sum rounded one after the other."""
    return to_uint8((images - base).mul_(_column(factors)).add_(base))


def _grey(images: Tensor) -> Tensor:
    """Luma of ITU-R 601 in 2**-16ths, rounded: int32 (N, 1, H, W)."""
    red, green, blue = images.int().split(1, dim=1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _box_weights(radii: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """In 2**-24ths, int64 (N, 1, 1, 1) each: of the centre, of the pixels beside it and of those beyond them.

    Three boxes of this width have the Gaussian's variance; a pixel that a box covers in part gets `edge`.
    Computed in float32, as Pillow does but for the square root.
    """
    variance = radii.float().square() / _BLUR_PASSES  # (N,)
    length = (12.0 * variance.double() + 1.0).sqrt().float()
    whole = ((length - 1.0) / 2.0).floor()
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    box = whole + part / (6 * (variance - (whole + 1) * (whole + 1)))  # the box's radius in pixels
    wide = box.long()  # 0 or 1
    full = (float(1 << 24) / (box * 2 + 1)).long()
    edge = ((1 << 24) - (wide * 2 + 1) * full) // 2
    beside, beyond = torch.where(wide > 0, full, edge), torch.where(wide > 0, edge, 0)
    return full[:, None, None, None], beside[:, None, None, None], beyond[:, None, None, None]


def _box_blur(images: Tensor, weights: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """One pass along the last dimension; edge pixels repeat outwards."""
    first, last = images[..., :1], images[..., -1:]
    wide = torch.cat((first, first, images, last, last), dim=3).long()
    centre, beside, beyond = weights
    total = centre * wide[..., 2:-2]
    total += beside * (wide[..., 1:-3] + wide[..., 3:-1])
    total += beyond * (wide[..., :-4] + wide[..., 4:])
    return ((total + (1 << 23)) >> 24).to(torch.uint8)
