"""One image file -> uint8 RGB: what can be read is converted, what can't has a reason in a few words."""

import errno
import logging
import os
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError, features


def _readable(*formats: str) -> tuple[str, ...]:
    """Those of the formats that the installed Pillow can decode."""
    Image.init()
    needs = {"WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}
    return tuple(f for f in formats if f in Image.OPEN and (f not in needs or features.check(needs[f])))


# What a file may be, whatever its name says (ImageNet has a PNG that is called JPEG).
FORMATS = _readable("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000", "AVIF")
# What a file may also be if its name says so: nearly any bytes can be taken for one of these.
_BY_NAME = _readable("DIB", "TGA", "PCX", "SGI", "QOI", "SUN")
# Left out of Pillow's list: EPS and PS, for which it starts Ghostscript; icons; formats that need another library.
_OF_NAME = {
    extension: kind
    for extension, kind in Image.registered_extensions().items()
    if kind in (*FORMATS, *_BY_NAME, "MPO") and extension != ".pfm"  # numbers without a known range
}
_FIRST = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's ImageFolder's
# What counts as an image by its name, in any case.
EXTENSIONS = tuple(sorted(_OF_NAME, key=lambda e: (_FIRST.index(e) if e in _FIRST else len(_FIRST), e)))

WHITE = (255, 255, 255)
_ORIENTATION = 0x0112  # EXIF's tag
_TURNS = {  # EXIF's orientation -> what makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WITH_ALPHA = ("LA", "PA", "RGBA", "RGBa")
_WITH_CLEAR_COLOUR = ("1", "L", "P", "RGB")  # modes in which a file may name one colour, or some, as transparent
_BACK = {6: 8, 8: 6}  # the orientation that undoes another one; those that are missing undo themselves
# What `read` reports of a file besides its pixels.
TURNED, TRANSPARENT, DARK = "its orientation is not upright", "it has transparent parts", "16 bits, and dark"
_DARK = 64  # of 255: the brightest that 14-bit values become if they are taken for 16-bit ones; 12-bit ones: 16

Report = Callable[[str, str], object]  # takes a file and one of the three

_stderr = threading.Lock()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its errors are lines of their own on stderr


class UnreadableError(Exception):
    """A file that can't be used; the message is the reason, without the file's name."""


class Rules(NamedTuple):
    """How a file's pixels are taken.

    upright: whether EXIF's orientation is applied. background: the colour behind transparent pixels, or None: the
    alpha channel is dropped, and the colours stay as they are stored. `Rules(False, None)` is what torchvision's
    ImageFolder does.
    """

    upright: bool = True
    background: tuple[int, ...] | None = WHITE


UPRIGHT_ON_WHITE = Rules()


def is_image(name: str) -> bool:
    """Whether a file (or a whole path) counts as an image, by its extension."""
    return name.lower().endswith(EXTENSIONS)


def read(
    file: str, image_size: int = 0, *, rules: Rules = UPRIGHT_ON_WHITE, report: Report = lambda file, what: None
) -> np.ndarray:
    """Reads one file as uint8 (H, W, 3), or (image_size, image_size, 3) by `resize`.

    Of an animation or a document of several pages it is the first. report: called with TURNED, TRANSPARENT or DARK
    for a file with an orientation that is not upright, with transparent parts, or with 16 bits a value of which the
    upper ones are 0.
    Raises UnreadableError: the file is missing, empty, no regular file (a pipe is never waited for), no image,
    of more pixels than Pillow's guard allows, damaged or truncated. To be called inside `quiet`.
    """
    try:
        with open(file, "rb", opener=_open) as stream:
            _check(os.fstat(stream.fileno()))
            kind = _OF_NAME.get(PurePath(file).suffix.lower())
            with Image.open(stream, formats=(*FORMATS, *({kind} & set(_BY_NAME)))) as image:
                rgb = _decoded(image, rules, lambda what: report(file, what))
        return np.asarray(resize(rgb, image_size) if image_size else rgb)
    except (UnreadableError, MemoryError):  # the second is not the file's fault
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error ...
        raise UnreadableError(_reason(error, file)) from error


# What `resize` does, as model.json says it.
RESIZE = {"shorter_side_to": "image_size", "interpolation": "bicubic", "antialias": True, "crop": "center"}


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


def _decoded(image: Image.Image, rules: Rules, report: Callable[[str], object]) -> Image.Image:
    """The opened image as 8-bit RGB, turned as the rules say."""
    sixteen = any(";16" in str(tile) for tile in image.tile)
    # Pillow turns a TIFF upright while it loads it, and removes the tag; other formats are left as they are.
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


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 2..8, or 1 for upright; damaged metadata say nothing."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # SyntaxError, struct.error, ValueError ...
        return 1
    return found if found in _TURNS else 1


def _is_grey16(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def _brightest(image: Image.Image) -> int:
    """The largest value of a loaded image, of 255, whatever its alpha channel says."""
    if _is_grey16(image):
        return int(_grey8(image).max())
    return max(high for _, high in image.convert("RGB").getextrema())


def _grey8(image: Image.Image) -> np.ndarray:
    """16-bit grey, scaled to 8 bits: Pillow's own conversion clips it, and nearly all would be white."""
    return ((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)


def _to_rgb(image: Image.Image, background: tuple[int, ...] | None, report: Callable[[str], object]) -> Image.Image:
    """8-bit RGB; transparent pixels show the background, or what is stored there if there is none."""
    if _is_grey16(image):
        image = Image.fromarray(_grey8(image))
    elif image.mode in ("I", "F"):
        raise UnreadableError(f"mode {image.mode}, 32 bits a pixel, has no known range; save it with 8 bits")
    elif image.mode in _WITH_ALPHA or ("transparency" in image.info and image.mode in _WITH_CLEAR_COLOUR):
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            report(TRANSPARENT)
            if background is not None:
                image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _is_heic(file: str) -> bool:
    """Whether the file is a phone's HEIC photograph, whatever it is called."""
    with open(file, "rb") as stream:
        start = stream.read(12)
    return start[4:8] == b"ftyp" and start[8:] in (b"heic", b"heix", b"mif1", b"heim", b"heis", b"msf1", b"hevc")


def _reason(error: Exception, file: str) -> str:
    """Why a file can't be used, in a few words and without its name."""
    if isinstance(error, FileNotFoundError):
        return "a link to a file that doesn't exist" if os.path.islink(file) else "the file has disappeared"
    if isinstance(error, UnidentifiedImageError):
        heic = "HEIC, which Pillow doesn't read; convert it to JPEG or PNG"
        return heic if _is_heic(file) else f"no image ({', '.join(FORMATS)}), or its beginning is damaged"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        counts = [f"{int(count):,}" for count in re.findall(r"\d+", str(error))]
        return f"{counts[0]} pixels, at most {Image.MAX_IMAGE_PIXELS:,} fit; make it smaller" if counts else str(error)
    if isinstance(error, OSError) and error.strerror:
        kinds = {errno.EISDIR: "it is a folder, not a file", errno.ENXIO: "it is a socket, not a file"}
        return kinds.get(error.errno, error.strerror)
    lines = str(error).splitlines()
    return f"damaged ({lines[0] if lines else type(error).__name__})"
