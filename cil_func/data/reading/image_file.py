"""Reads one image file as uint8 RGB, or says in a few words why it can't be used."""

import errno
import logging
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import PurePath

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from cil_func.data.reading.pixels import Rules, UnreadableError, decode


def _readable(*formats: str) -> tuple[str, ...]:
    """Returns those of the formats that the installed Pillow can decode."""
    Image.init()
    needs = {"WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}
    return tuple(f for f in formats if f in Image.OPEN and (f not in needs or features.check(needs[f])))


# Formats in which a file is read whatever its name says (ImageNet has a PNG that is called JPEG).
FORMATS = _readable("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF", "JPEG2000", "AVIF")
# Formats in which a file is read only if its name says so: nearly any bytes can be taken for one of these.
_BY_NAME = _readable("DIB", "TGA", "PCX", "SGI", "QOI", "SUN")
# Left out of Pillow's list: EPS and PS, for which it starts Ghostscript; icons; formats that need another library.
_OF_NAME = {
    extension: kind
    for extension, kind in Image.registered_extensions().items()
    if kind in (*FORMATS, *_BY_NAME, "MPO") and extension != ".pfm"  # a PFM has numbers without a known range
}
_FIRST = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's ImageFolder's
# The extensions of file names that count as images, in lower case; torchvision's come first.
EXTENSIONS = tuple(sorted(_OF_NAME, key=lambda e: (_FIRST.index(e) if e in _FIRST else len(_FIRST), e)))

Report = Callable[[str, str], object]  # takes a file and what `pixels.decode` reports of it

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else Pillow prints its errors to stderr

UPRIGHT_ON_WHITE = Rules()


def is_image(name: str) -> bool:
    """Returns whether a file name or path has the extension of an image."""
    return name.lower().endswith(EXTENSIONS)


def read(
    file: str,
    image_size: int = 0,
    *,
    rules: Rules = UPRIGHT_ON_WHITE,
    report: Report = lambda file, what: None,
    instead: Callable[[Image.Image], Image.Image] | None = None,
) -> np.ndarray:
    """Reads one image file and returns it as uint8 (H, W, 3).

    Call it inside `quiet`. Of an animation or a document with several pages it reads the first image.
    image_size: 0 keeps the image's size; otherwise `resize` brings it to (image_size, image_size, 3).
    rules: about orientation and transparent pixels. report: called with (file, what) for each of TURNED, TRANSPARENT
    and DARK that is true of the image, see `pixels.decode`. instead: called with the whole image as RGB, in place of
    `resize`; None: `resize` is called.
    Raises UnreadableError if the file is missing, empty, damaged, truncated, not an image or not a regular file (it
    never waits for a pipe), or if it has more pixels than Pillow's guard allows.
    """
    try:
        with open(file, "rb", opener=_open) as stream:
            _check(os.fstat(stream.fileno()))
            kind = _OF_NAME.get(PurePath(file).suffix.lower(), "")
            with Image.open(stream, formats=(*FORMATS, *({kind} & set(_BY_NAME)))) as image:
                rgb = decode(image, rules, lambda what: report(file, what))
        return np.asarray(instead(rgb) if instead else resize(rgb, image_size) if image_size else rgb)
    except (UnreadableError, MemoryError):  # a lack of memory is not the file's fault
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error ...
        raise UnreadableError(_reason(error, file)) from error


# Of a whole file. Some tools append more. The other formats have no end by which a file is seen to be whole.
_LAST_BYTES = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82", "GIF": b";"}


def looks_whole(file: str, image_size: int = 0) -> bool:
    """Returns whether beginning and end of a file are those of an image that `read` can bring to `image_size`.

    Takes a tenth of the time of decoding. A file of which it is false may be sound, as each of a kind without such an
    end: `read` decides.
    """
    try:
        with open(file, "rb", opener=_open) as stream:
            _check(os.fstat(stream.fileno()))
            with Image.open(stream, formats=FORMATS) as image:
                end = _LAST_BYTES.get(image.format or "")
                _resized(image.size, image_size or min(image.size))
            if end is None:
                return False
            stream.seek(-len(end), os.SEEK_END)
            return stream.read() == end
    except Exception:  # whatever Pillow raises
        return False


def from_pillow(image: Image.Image, image_size: int = 0, *, rules: Rules = UPRIGHT_ON_WHITE) -> np.ndarray:
    """Returns an image of Pillow as `read` returns the file that it was opened from: uint8 (H, W, 3).

    image: opened or made; one that is not loaded yet is loaded. image_size, rules: as in `read`. Raises UnreadableError
    for damaged pixels and for a mode without a known range of values.
    """
    try:
        rgb = decode(image, rules, lambda what: None)
        return np.asarray(resize(rgb, image_size) if image_size else rgb)
    except (UnreadableError, MemoryError):
        raise
    except Exception as error:
        raise UnreadableError(_reason(error, "")) from error


# What `resize` does, as model.json records it.
RESIZE = {"shorter_side_to": "image_size", "interpolation": "bicubic", "antialias": True, "crop": "center"}


def resize(image: Image.Image, size: int) -> Image.Image:
    """Brings the shorter side to `size` pixels (bicubic, antialiased) and returns the centre, size x size.

    image: of Pillow, RGB. If it has this size already, it is returned as it is. Sizes and offsets are rounded as
    torchvision's Resize and CenterCrop round them.
    Raises UnreadableError if the longer side becomes so long that Pillow's guard would not allow the image.
    """
    if image.size == (size, size):
        return image
    width, height = _resized(image.size, size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))


def _resized(found: tuple[int, int], size: int) -> tuple[int, int]:
    """Returns (width, height) once the shorter side has `size` pixels. Raises UnreadableError, see `resize`.

    found: (width, height).
    """
    width, height = (size * side // min(found) for side in found)
    if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:  # 1 x 100,000 would take 20 GB
        shape = f"{found[0]}x{found[1]}"
        raise UnreadableError(f"{shape} pixels become {width}x{height} at data.image_size = {size}, too long a strip")
    return width, height


@contextmanager
def quiet() -> Iterator[None]:
    """Returns a context manager that hides Pillow's warnings, but raises the one about a too large image as an error.

    It changes the warnings of the whole process, so enter it once in the main thread, around all threads that read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def hush() -> None:
    """Does what `quiet` does for the rest of this process, for the warnings of Pillow alone: where threads read."""
    warnings.filterwarnings("ignore", module="PIL")
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def _open(file: str, flags: int) -> int:
    """Opens a file for `open`. A pipe without a writer is opened at once and refused later, instead of waited for."""
    return os.open(file, flags | getattr(os, "O_NONBLOCK", 0))


def _check(status: os.stat_result) -> None:
    """Raises UnreadableError unless the file is a regular one with content."""
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableError("it is a pipe or a device, not a file")
    if status.st_size == 0:
        raise UnreadableError("the file is empty")


def _is_heic(file: str) -> bool:
    """Returns whether a file is a HEIC photograph, as phones make them, whatever its name is."""
    with open(file, "rb") as stream:
        start = stream.read(12)
    return start[4:8] == b"ftyp" and start[8:] in (b"heic", b"heix", b"mif1", b"heim", b"heis", b"msf1", b"hevc")


def _reason(error: Exception, file: str) -> str:
    """Returns in a few words, without the file's name, why a file can't be used.

    error: what reading the file has raised. file: its path.
    """
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
        return kinds.get(error.errno or 0, error.strerror)
    lines = str(error).splitlines()
    return f"damaged ({lines[0] if lines else type(error).__name__})"
