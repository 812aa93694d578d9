"""Pillow's operations on the values of pixels, on a batch, each image with its own argument, bit by bit like Pillow.

Images are uint8 planes (N, 3, H, W), and so are the results; the arguments of a function stay as they are.
Each second argument is (N,), one number an image, on the images' device. A function whose name ends in `_table`
returns a table uint8 (N, 3, 256) for `lookup`; its images are those that the table will be applied to.

Products and sums are separate operations, in an order that is exact or Pillow's own. Nothing is fused, so an image's
result depends neither on the device nor on the other images of the batch. Sources: Pillow 12.3, `Blend.c`, `Filter.c`,
`Convert.c`, `BoxBlur.c`, `ImageOps.py`, `ImageEnhance.py`.
"""

import torch
from torch import Tensor

_BLUR_PASSES = 3  # box blurs that replace one Gaussian blur


def to_uint8(values: Tensor) -> Tensor:
    """Returns float values as uint8: clamped to 0..255, the fraction cut off. Changes `values` in place."""
    return values.clamp_(0, 255).to(torch.int16).to(torch.uint8)  # by way of int16: three times as fast on a CPU


def brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Blends each image with black.

    images: uint8 planes (N, 3, H, W), and so is the result. factors: float (N,): 0 gives black, 1 the image.
    """
    return to_uint8(images.float().mul_(_column(factors)))


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blends each image with its mean grey.

    images: uint8 planes (N, 3, H, W), and so is the result. factors: float (N,): 0 gives the grey, 1 the image.
    """
    return lookup(images, contrast_table(images, factors))


def color(images: Tensor, factors: Tensor) -> Tensor:
    """Blends each image with itself in grey; torchvision calls that saturation.

    images: uint8 planes (N, 3, H, W), and so is the result: clamped to 0..255, the fraction cut off.
    factors: float (N,): 0 gives the grey image, 1 the image, more a more colourful one.
    """
    return _blend(_grey(images).float(), images, factors)


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Blends each image with itself smoothed by (1 1 1, 1 5 1, 1 1 1) / 13. Border pixels don't change.

    images: uint8 planes (N, 3, H, W), and so is the result.
    factors: float (N,): 0 gives the smooth image, 1 the image, more a sharper one.
    """
    wide = images.to(torch.int16)
    rows = wide[:, :, :-2] + wide[:, :, 1:-1] + wide[:, :, 2:]  # (N, 3, H - 2, W)
    centre = wide[:, :, 1:-1, 1:-1]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * centre  # 13 times the mean
    # n / 13 + 1/2 is an integer or at least 1/26 away from one, so float32 floors it correctly
    smooth = (total.float() * (1 / 13)).add_(0.5).floor_()
    out = images.clone()
    out[:, :, 1:-1, 1:-1] = _blend(smooth, images[:, :, 1:-1, 1:-1], factors)
    return out


def gaussian_blur(images: Tensor, radii: Tensor) -> Tensor:
    """Blurs each image like Pillow's GaussianBlur: by three box blurs along the rows, then three along the columns.

    images: uint8 planes (N, 3, H, W), and so is the result. radii: float (N,), one per image, in pixels, above 0 and up
    to 2; not checked.
    """
    weights = _box_weights(radii)
    for _ in range(2):
        for _ in range(_BLUR_PASSES):
            images = _box_blur(images, weights)
        images = images.transpose(2, 3)
    return images.contiguous()


def lookup(images: Tensor, tables: Tensor) -> Tensor:
    """Returns the images with each value replaced by its entry in the table of its image and channel.

    images: uint8 planes (N, 3, H, W). tables: uint8 (N, 3, 256).
    """
    channels = torch.arange(tables.shape[0] * 3, dtype=torch.int32, device=images.device)
    index = images.flatten(2).flatten(0, 1).int().add_(channels[:, None] * 256)  # (3 N, H W)
    return tables.flatten().index_select(0, index.flatten()).view_as(images)


def invert_table(images: Tensor, _: Tensor) -> Tensor:
    """Returns the table uint8 (N, 3, 256) that replaces a value by 255 minus it. images: (N, 3, H, W), for N alone."""
    return _same_for_channels(255 - _levels(images).expand(len(images), 256))


def posterize_table(images: Tensor, bits: Tensor) -> Tensor:
    """Returns the table uint8 (N, 3, 256) that keeps the highest bits of a value and makes the others 0.

    images: (N, 3, H, W). bits: (N,), how many of 8 bits each image keeps, cut to an integer; none for 0 or less.
    """
    dropped = (8 - bits.int()[:, None]).clamp(0, 8)
    return _same_for_channels(_levels(images) >> dropped << dropped)


def solarize_table(images: Tensor, thresholds: Tensor) -> Tensor:
    """Returns the table uint8 (N, 3, 256) that inverts values at or above a threshold.

    images: (N, 3, H, W). thresholds: (N,), one per image.
    """
    levels = _levels(images)
    return _same_for_channels(torch.where(levels < thresholds[:, None], levels, 255 - levels))


def solarize_add_table(images: Tensor, added: Tensor) -> Tensor:
    """Returns the table uint8 (N, 3, 256) that adds a number to values below 128, up to 255.

    images: (N, 3, H, W). added: (N,), the number for each image, cut to an integer.
    """
    levels = _levels(images)
    return _same_for_channels(torch.where(levels < 128, levels + added.int()[:, None], levels).clamp_(max=255))


def brightness_table(images: Tensor, factors: Tensor) -> Tensor:
    """Returns the table uint8 (N, 3, 256) with which `lookup` does the same as `brightness`. Arguments: as there."""
    return _same_for_channels(_levels(images).float() * factors.float()[:, None])


def contrast_table(images: Tensor, factors: Tensor) -> Tensor:
    """Returns the table uint8 (N, 3, 256) with which `lookup` does the same as `contrast`. Arguments: as there."""
    count = images.shape[2] * images.shape[3]
    mean = (_grey(images).sum((1, 2, 3)).double() / count + 0.5).floor().float()[:, None]  # (N, 1)
    return _same_for_channels((_levels(images) - mean).mul_(factors.float()[:, None]).add_(mean))


def auto_contrast_table(images: Tensor, _: Tensor) -> Tensor:
    """Returns the table uint8 (N, 3, 256) that stretches each channel to 0..255. The second argument is not used.

    images: uint8 planes (N, 3, H, W), whose smallest and largest values become 0 and 255. A channel with a single value
    doesn't change. Computed in float64, as Pillow's Python code does.
    """
    planes = images.flatten(2)  # (N, 3, H W)
    low, high = planes.amin(2, keepdim=True).double(), planes.amax(2, keepdim=True).double()  # (N, 3, 1)
    scale = torch.full_like(low, 255.0) / (high - low)  # 255.0 / tensor would round twice
    levels = _levels(images).double()
    stretched = levels * scale + -low * scale
    return to_uint8(torch.where(high > low, stretched, levels))


def equalize_table(images: Tensor, _: Tensor) -> Tensor:
    """Returns the table uint8 (N, 3, 256) that equalizes each channel's histogram, as `PIL.ImageOps.equalize` does.

    images: uint8 planes (N, 3, H, W), of which the histograms are taken. The second argument is not used.
    A channel doesn't change if its pixels without the brightest value are fewer than 255.
    """
    count = len(images)
    channels = torch.arange(count * 3, dtype=torch.int32, device=images.device)
    index = images.flatten(2).flatten(0, 1).int().add_(channels[:, None] * 256).flatten()
    one = torch.ones((), dtype=torch.int32, device=images.device)
    # index_add_, since bincount would wait for the device
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
    """Returns a table (N, 256) of any dtype as uint8 (N, 3, 256)."""
    return to_uint8(table)[:, None].expand(-1, 3, -1)


def _column(values: Tensor) -> Tensor:
    return values.float()[:, None, None, None]  # (N, 1, 1, 1)


def _blend(base: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    """Returns base + factor * (image - base) as uint8, computed in float32 and rounded after each operation.

    base: float32, of the images' shape or with one channel. images: uint8 planes. factors: float (N,).
    """
    return to_uint8((images - base).mul_(_column(factors)).add_(base))


def _grey(images: Tensor) -> Tensor:
    """Returns the luma of ITU-R 601, int32 (N, 1, H, W) in 0..255, computed in units of 2**-16 and rounded."""
    red, green, blue = images.int().split(1, dim=1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _box_weights(radii: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the weights of a box blur: of the centre, of the pixels beside it, and of those beyond them.

    radii: float (N,), in pixels. Each weight is int64 (N, 1, 1, 1), in units of 2**-24. Three boxes of this width have
    the variance of a Gaussian with the radius. Pixels that the box covers in part get a smaller weight (`edge`).
    Computed in
    float32, as Pillow does, except for the square root.
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
    """Blurs planes along the last dimension once. Edge pixels are repeated outwards. weights: from `_box_weights`."""
    first, last = images[..., :1], images[..., -1:]
    wide = torch.cat((first, first, images, last, last), dim=3).long()
    centre, beside, beyond = weights
    total = centre * wide[..., 2:-2]
    total += beside * (wide[..., 1:-3] + wide[..., 3:-1])
    total += beyond * (wide[..., :-4] + wide[..., 4:])
    return ((total + (1 << 23)) >> 24).to(torch.uint8)
