"""Turns an opened image into 8-bit RGB: upright, and with a background behind transparent pixels."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import numpy as np
from PIL import Image

WHITE = (255, 255, 255)
# What `decode` reports of an image besides its pixels.
TURNED, TRANSPARENT, DARK = "its orientation is not upright", "it has transparent parts", "16 bits, and dark"

_ORIENTATION = 0x0112  # the tag in EXIF
_TURNS = {  # EXIF's orientation -> what makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACK = {6: 8, 8: 6}  # the orientation that undoes another one; each that is missing here undoes itself
_WITH_ALPHA = ("LA", "PA", "RGBA", "RGBa")
_WITH_CLEAR_COLOUR = ("1", "L", "P", "RGB")  # modes in which a file may declare single colours transparent
_DARK = 64  # of 255: the brightest that 14-bit values get if they are taken for 16-bit values; 12-bit ones get 16

_stderr = threading.Lock()


class UnreadableError(Exception):
    """A file that can't be used. The message is the reason, without the file's name."""


class Rules(NamedTuple):
    """How `decode` treats an image's orientation and its transparent pixels.

    upright: whether EXIF's orientation is applied; if False, pixels are returned as they are stored.
    background: the RGB colour behind transparent pixels; None drops the alpha channel and leaves the colours as they
    are stored. torchvision's ImageFolder reads by `Rules(False, None)`.
    """

    upright: bool = True
    background: tuple[int, ...] | None = WHITE


def decode(image: Image.Image, rules: Rules, report: Callable[[str], object]) -> Image.Image:
    """Decodes an opened image and returns it as 8-bit RGB.

    image: from `Image.open`, not loaded yet, or any other image of Pillow.
    rules: about orientation and transparent pixels.
    report: called with TURNED if the image's orientation is not upright, with TRANSPARENT if it has transparent
    pixels, with DARK if it has 16 bits a value and the upper ones are 0.
    Raises UnreadableError for a mode without a known range of values, and whatever Pillow raises for damaged files.
    """
    sixteen = any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    # Pillow turns a TIFF upright while it loads it, and removes the tag. It leaves images of other formats as stored.
    stored = _orientation(image) if image.format == "TIFF" else 1
    _load(image)
    left = _orientation(image)
    if stored > 1 or left > 1:
        report(TURNED)
    rgb = _to_rgb(image, rules.background, report)
    if sixteen and 0 < _brightest(image) <= _DARK:
        report(DARK)
    if rules.upright:
        return rgb.transpose(_TURNS[left]) if left > 1 else rgb
    turned = stored > 1 and left == 1
    return rgb.transpose(_TURNS[_BACK.get(stored, stored)]) if turned else rgb


def _load(image: Image.Image) -> None:
    """Decodes all pixels of an image."""
    if image.format != "TIFF":
        image.load()
        return
    with _stderr, _silenced(2):  # libtiff prints lines of its own to stderr
        image.load()


@contextmanager
def _silenced(descriptor: int) -> Iterator[None]:
    """Returns a context manager that hides what the process writes to a file descriptor: 1 for stdout, 2 for stderr.

    Only one thread at a time may use it for a descriptor.
    """
    try:
        kept = os.dup(descriptor)
    except OSError:  # it is closed already
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, descriptor)
        yield
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)
        os.close(null)


def _orientation(image: Image.Image) -> int:
    """Returns EXIF's orientation, 2 to 8, or 1 for upright images and for damaged metadata."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # SyntaxError, struct.error, ValueError ...
        return 1
    return found if found in _TURNS else 1


def _is_grey16(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _brightest(image: Image.Image) -> int:
    """Returns the largest value of a loaded image, 0 to 255, without regard to its alpha channel."""
    if _is_grey16(image):
        return int(_grey8(image).max())
    return max(high for _, high in _extrema(image.convert("RGB")))



def _extrema(image: Image.Image) -> tuple[tuple[int, int], ...]:
    """Returns the (smallest, largest) value of each channel of an 8-bit image that has several."""
    return cast("tuple[tuple[int, int], ...]", image.getextrema())  # of one channel it would be a single pair


def _grey8(image: Image.Image) -> np.ndarray:
    """Returns 16-bit grey scaled to uint8 (H, W). Pillow's own conversion would make nearly all pixels white."""
    return ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)


def _to_rgb(image: Image.Image, background: tuple[int, ...] | None, report: Callable[[str], object]) -> Image.Image:
    """Returns a loaded image as 8-bit RGB. report: called with TRANSPARENT if it has transparent pixels.

    background: the RGB colour that transparent pixels show; None: the colour stored there.
    """
    if _is_grey16(image):
        image = Image.fromarray(_grey8(image))
    elif image.mode in ("I", "F"):
        raise UnreadableError(f"mode {image.mode}, 32 bits a pixel, has no known range; save it with 8 bits")
    elif image.mode in _WITH_ALPHA or ("transparency" in image.info and image.mode in _WITH_CLEAR_COLOUR):
        image = image.convert("RGBA")
        if _extrema(image)[3][0] < 255:
            report(TRANSPARENT)
            if background is not None:
                image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    return image if image.mode == "RGB" else image.convert("RGB")
