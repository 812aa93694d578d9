"""Images that stay in their files until they are needed, and sets of which a part does."""

import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cil_func.data.augmentation import window
from cil_func.data.augmentation.augment import Augment
from cil_func.data.images import Images, Packed, Part, Resident
from cil_func.data.reading import file_table, loading
from cil_func.data.reading.file_table import FileTable, Joined, Pixels
from cil_func.data.reading.loading import Piece
from cil_func.data.reading.packed import PackedFile

_PIECE_PIXELS = 1 << 20  # that a worker decodes in one go: a few of its milliseconds, and a pipe's megabytes
_MOST_OF_PIECE = 256  # images
_HASHED = 256  # files of a data set whose content counts in a fingerprint


@dataclass(frozen=True)
class Streamed:
    """Images in files, decoded when they are asked for.

    table: the files. workers: how many processes decode for `stream`; 0: the one that asks.
    Raises DataError, from whatever reads, for a file that can't be used or has vanished.
    """

    table: FileTable
    workers: int | None = 0

    @property
    def shape(self) -> tuple[int, int]:
        return self.table.size

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def nbytes(self) -> int:
        return self.table.nbytes

    def __len__(self) -> int:
        return len(self.table)

    def gather(self, rows: Tensor) -> Tensor:
        """See `Images.gather`. Decodes in this process: for a few images."""
        parts = list(Streamed(self.table).stream([Part(rows, {})]))
        return parts[0]

    def stream(self, parts: Sequence[Part], augment: Augment | None = None) -> Generator[Tensor]:
        """See `Images.stream`. The workers start in this call and end when the generator is exhausted or closed."""
        height, width = self.shape
        most = min(_MOST_OF_PIECE, max(1, _PIECE_PIXELS // (height * width)))
        count = sum(-(-len(part.rows) // most) for part in parts)
        workers = min(self.workers or 0, count) if count > 1 else 0
        change = _Change(augment) if augment and (augment.window or augment.by_pillow) else None
        loaded = loading.start(self.table, _pieces(parts, most), change=change, workers=workers, most=most)
        return self._assembled(loaded, parts, most)

    def _assembled(self, loaded: Generator[loading.Loaded], parts: Sequence[Part], most: int) -> Generator[Tensor]:
        """Yields the images of each part: its pieces, one after the other. most: how many images a piece has."""
        for part in parts:
            images = torch.empty((len(part.rows), *self.shape, 3), dtype=torch.uint8)
            for first in range(0, len(part.rows), most):
                pixels, faults, _ = next(loaded)
                loading.refuse(self.table, faults)
                images[first : first + most] = torch.from_numpy(pixels)
            yield images


@dataclass(frozen=True)
class Chained:
    """The images of two sets of one size, those of `first` in front."""

    first: Images
    second: Images

    @property
    def shape(self) -> tuple[int, int]:
        return self.second.shape

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def nbytes(self) -> int:
        return self.first.nbytes + self.second.nbytes

    @property
    def workers(self) -> int | None:
        return next((part.workers for part in (self.second, self.first) if part.workers is not None), None)

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def gather(self, rows: Tensor) -> Tensor:
        """See `Images.gather`."""
        return next(self.stream([Part(rows, {})]))

    def stream(self, parts: Sequence[Part], augment: Augment | None = None) -> Generator[Tensor]:
        """See `Images.stream`."""
        where = [part.rows >= len(self.first) for part in parts]
        front = self.first.stream([_those(part, ~later) for part, later in zip(parts, where, strict=True)], augment)
        moved = [Part(part.rows - len(self.first), part.draws) for part in parts]
        back = self.second.stream([_those(part, later) for part, later in zip(moved, where, strict=True)], augment)
        return self._merged(where, front, back)

    def _merged(self, where: list[Tensor], front: Iterator[Tensor], back: Iterator[Tensor]) -> Generator[Tensor]:
        for later, early, late in zip(where, front, back, strict=True):
            images = torch.empty((len(later), *self.shape, 3), dtype=torch.uint8)
            images[~later], images[later] = early.cpu(), late.cpu()
            yield images


def images_of(pixels: Pixels, *, workers: int) -> Images:
    """Returns the images of a data set as the rest of the package takes them, on the CPU.

    pixels: as a `sources.Dataset` has them. workers: how many processes decode files.
    """
    if isinstance(pixels, FileTable):
        return Streamed(pixels, workers)
    if isinstance(pixels, Joined):
        return Chained(images_of(pixels.first, workers=workers), images_of(pixels.second, workers=workers))
    return Packed(pixels.map()) if isinstance(pixels, PackedFile) else Resident(torch.from_numpy(pixels))


def contents(pixels: Pixels, *, parts: int = 2, most: int | None = None) -> Iterator[np.ndarray]:
    """Yields arrays by which a data set's images are told from others.

    All pixels of images in memory. A SHA-256 of those in a packed file. Of images in files the last `parts` parts
    of each path, so that the folder may be moved and a damaged file be replaced, and all bytes of `most` files, evenly
    spread; None: 256. Raises DataError for one that can't be read.
    """
    if isinstance(pixels, np.ndarray):
        yield pixels
    elif isinstance(pixels, PackedFile):
        yield np.frombuffer(pixels.digest, dtype=np.uint8)
    elif isinstance(pixels, Joined):
        yield from contents(pixels.first, parts=parts, most=most)
        yield from contents(pixels.second, parts=parts, most=most)
    else:
        names = ("/".join(pixels.path(row).split(os.sep)[-parts:]) for row in range(len(pixels)))
        for name in names:
            yield np.frombuffer(os.fsencode(name) + b"\0", dtype=np.uint8)
        for row in file_table.spread(len(pixels), most or _HASHED):
            try:
                yield np.fromfile(pixels.path(row), dtype=np.uint8)
            except OSError as error:
                loading.refuse(pixels, [(row, error.strerror or str(error))])


@dataclass(frozen=True)
class _Change:
    """A `loading.Change`: that part of an `Augment` which is done where an image is decoded."""

    augment: Augment

    def cut(self, image: Image.Image, seed: int, /, *, size: tuple[int, int]) -> Image.Image:
        return window.cut(image, seed, smallest=self.augment.window, size=size)

    def apply(self, pixels: np.ndarray, draws: dict[str, np.ndarray], /) -> np.ndarray:
        if not self.augment.by_pillow:
            return pixels
        return self.augment.apply(
            torch.from_numpy(pixels), {name: torch.from_numpy(draw) for name, draw in draws.items()}
        ).numpy()


def _pieces(parts: Sequence[Part], most: int) -> Iterator[Piece]:
    """Yields the pieces of all parts, in order, of at most `most` images each."""
    for part in parts:
        for first in range(0, len(part.rows), most):
            here = slice(first, first + most)
            yield Piece(part.rows[here].numpy(), {name: draw[here].numpy() for name, draw in part.draws.items()})


def _those(part: Part, chosen: Tensor) -> Part:
    """Returns the images of a part for which `chosen`, bool (B,), is true."""
    return Part(part.rows[chosen], {name: draw[chosen] for name, draw in part.draws.items()})
