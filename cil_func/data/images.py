"""One image file -> uint8 RGB: what can be read is converted, what can't has a reason in a few words."""

import errno
import logging
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

# What counts as an image by its name, in any case: the list of torchvision's ImageFolder.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# What a file may be, whatever its name says (ImageNet has a PNG that is called JPEG). Pillow would take more: for
# an EPS it starts Ghostscript.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")

_stderr = threading.Lock()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its errors are lines of their own on stderr


class UnreadableError(Exception):
    """A file that can't be used; the message is the reason, without the file's name."""


def is_image(name: str) -> bool:
    """Whether a file (or a whole path) counts as an image, by its extension."""
    return name.lower().endswith(EXTENSIONS)


def read(file: str, image_size: int = 0) -> np.ndarray:
    """One file as uint8 (H, W, 3), or (image_size, image_size, 3) by `resize`.

    Of an animation or a document of several pages it is the first; transparency is dropped; EXIF's
    orientation is not applied. All three as torchvision's ImageFolder has it, and so the field's results.
    Raises UnreadableError: the file is missing, empty, no regular file (a pipe is never waited for), no image,
    of more pixels than Pillow's guard allows, damaged or truncated. To be called inside `quiet`.
    """
    try:
        with open(file, "rb", opener=_open) as stream:
            _check(os.fstat(stream.fileno()))
            with Image.open(stream, formats=FORMATS) as image:
                _load(image)
                rgb = _to_rgb(image)
        return np.asarray(resize(rgb, image_size) if image_size else rgb)
    except (UnreadableError, MemoryError):  # the second is not the file's fault
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error ...
        raise UnreadableError(_reason(error, file)) from error


def resize(image: Image.Image, size: int) -> Image.Image:
    """Brings the shorter side to `size` pixels (bicubic, antialiased) and crops the centre, size x size.

    An image that has this size already is returned as it is. Sizes and offsets are rounded as
    torchvision's Resize and CenterCrop do.
    Raises UnreadableError if the longer side gets so long that Pillow's guard would not allow the image.
    """
    width, height = image.size
    if (width, height) == (size, size):
        return image
    short = min(width, height)
    shape = f"{width}x{height}"
    width, height = size * width // short, size * height // short
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:  # 1 x 100,000 would take 20 GB
        raise UnreadableError(f"{shape} pixels become {width}x{height} at data.image_size = {size}, too long a strip")
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))


@contextmanager
def quiet() -> Iterator[None]:
    """Pillow's warnings: an image that is too large becomes an error, the rest (odd metadata) is not printed.

    Warnings are filtered for the whole process, so this is entered once around all threads, in the main one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _open(file: str, flags: int) -> int:
    """For `open`: a pipe without a writer is opened at once, to be refused, instead of waited for."""
    return os.open(file, flags | getattr(os, "O_NONBLOCK", 0))


def _check(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableError("it is a pipe or a device, not a file")
    if status.st_size == 0:
        raise UnreadableError("the file is empty")


def _load(image: Image.Image) -> None:
    """Decodes the pixels to the end."""
    if image.format != "TIFF":
        image.load()
        return
    with _stderr, _silenced(2):  # libtiff writes lines of its own there, beside the one that a person should get
        image.load()


@contextmanager
def _silenced(descriptor: int) -> Iterator[None]:
    """Nothing that is written to the descriptor goes anywhere; of the whole process, so one thread at a time."""
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


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB. 16-bit grey is scaled, for Pillow's own conversion clips it: nearly all would be white."""
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if sixteen:
        grey = np.asarray(image).astype(np.uint32)  # 0..65535
        image = Image.fromarray(((grey + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise UnreadableError(f"mode {image.mode}, 32 bits a pixel, has no known range; save it with 8 bits")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns
    return image if image.mode == "RGB" else image.convert("RGB")


def _reason(error: Exception, file: str) -> str:
    """Why a file can't be used, in a few words and without its name."""
    if isinstance(error, FileNotFoundError):
        return "a link to a file that doesn't exist" if os.path.islink(file) else "the file has disappeared"
    if isinstance(error, UnidentifiedImageError):
        return f"no image ({', '.join(FORMATS)}), or its beginning is damaged"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        counts = [f"{int(count):,}" for count in re.findall(r"\d+", str(error))]
        return f"{counts[0]} pixels, at most {Image.MAX_IMAGE_PIXELS:,} fit; make it smaller" if counts else str(error)
    if isinstance(error, OSError) and error.strerror:
        kinds = {errno.EISDIR: "it is a folder, not a file", errno.ENXIO: "it is a socket, not a file"}
        return kinds.get(error.errno, error.strerror)
    lines = str(error).splitlines()
    return f"damaged ({lines[0] if lines else type(error).__name__})"
