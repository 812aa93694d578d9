"""Makes files that are named like images and can't be read, with what has to be said of each."""

import io
import os
import random
import stat
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Damage = Callable[[Path, random.Random], object]  # makes something at a path that can't be read as an image


def encoded(kind: str, *, size: int = 8, seed: int = 0, **options) -> bytes:
    """Returns a random image of size x size pixels, encoded in a format of Pillow's. options: of the encoder."""
    pixels = np.random.RandomState(seed).randint(0, 256, (size, size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def header(width: int, height: int) -> bytes:
    """Returns the beginning of a PNG of width x height pixels."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0")
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (chunk, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _cut(kind: str, **options) -> Damage:
    def damage(file: Path, draw: random.Random) -> None:
        whole = encoded(kind, size=64, **options)
        file.write_bytes(whole[: int(len(whole) * draw.uniform(0.1, 0.9))])

    return damage


def _holds(content: bytes) -> Damage:
    return lambda file, draw: file.write_bytes(content)


def _flipped(kind: str, **options) -> Damage:
    """Returns a damage that flips a bit of the compressed pixels. kind: a format with a checksum."""

    def damage(file: Path, draw: random.Random) -> None:
        whole = bytearray(encoded(kind, size=64, **options))
        whole[draw.randrange(100, len(whole) - 500)] ^= 1 << draw.randrange(8)
        file.write_bytes(whole)

    return damage


def _many_samples(file: Path, draw: random.Random) -> None:
    """Makes a TIFF that claims 99 samples a pixel, which Pillow also reports through `logging`."""
    tag = struct.Struct("<HHIHH")
    file.write_bytes(encoded("TIFF").replace(tag.pack(277, 3, 1, 3, 0), tag.pack(277, 3, 1, 99, 0)))


def _floats(file: Path, draw: random.Random) -> None:
    Image.fromarray(np.ones((8, 8), dtype=np.float32)).save(file, "TIFF")


# {name: (damage, a text that the reason must contain)}
DAMAGES: dict[str, tuple[Damage, str]] = {
    "empty": (_holds(b""), "empty"),
    "zeros": (_holds(bytes(4096)), "no image"),
    "text": (_holds(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"), "no image"),
    "page": (_holds(b"<!DOCTYPE html><title>404 Not Found</title>"), "no image"),
    "postscript": (_holds(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n"), "no image"),
    "png cut": (_cut("PNG"), "truncated"),
    "jpeg cut": (_cut("JPEG"), "damaged"),
    "progressive jpeg cut": (_cut("JPEG", progressive=True), "damaged"),
    "webp cut": (_cut("WEBP"), "damaged"),
    "bmp cut": (_cut("BMP"), "truncated"),
    "ppm cut": (_cut("PPM"), "truncated"),
    "tiff cut": (_cut("TIFF"), "truncated"),
    "deflated tiff cut": (_cut("TIFF", compression="tiff_adobe_deflate"), "damaged"),
    "png with a bit flipped": (_flipped("PNG"), "damaged"),
    "deflated tiff with a bit flipped": (_flipped("TIFF", compression="tiff_adobe_deflate"), "damaged"),
    "png that is a header": (_holds(header(8, 8)), "truncated"),
    "too many pixels": (_holds(header(10_000, 9_000)), "90,000,000 pixels"),
    "far too many pixels": (_holds(header(60_000, 60_000)), "3,600,000,000 pixels"),
    "99 samples a pixel": (_many_samples, "no image"),
    "32 bits a pixel": (_floats, "32 bits"),
    "folder": (lambda file, draw: file.mkdir(), "folder"),
    "pipe": (lambda file, draw: os.mkfifo(file), "pipe"),
    "socket": (lambda file, draw: os.mknod(file, stat.S_IFSOCK | 0o600), "socket"),
    "link to nowhere": (lambda file, draw: file.symlink_to("nowhere.png"), "link"),
    "link to itself": (lambda file, draw: file.symlink_to(file.name), "symbolic links"),
}
