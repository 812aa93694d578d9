"""A data set's image files, none of them opened: what streaming keeps in memory."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Union

import numpy as np

from cil_func.data.reading.packed import PackedFile
from cil_func.data.reading.pixels import Rules


@dataclass(frozen=True)
class FileTable:
    """The paths of N image files of one size, by row number.

    names: uint8, all paths, one after the other. ends: int64 (N,), the place behind each path in `names`. Arrays,
    because processes that are forked share them: looking at a Python string changes its count of references, so that
    each process would copy a list of a million.
    size: (height, width) in pixels. resizes: whether an image is brought to that size, which is then square; if not, a
    file of another size is a mistake. rules: about orientation and transparent pixels.
    """

    names: np.ndarray
    ends: np.ndarray
    size: tuple[int, int]
    resizes: bool
    rules: Rules

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape that an array of all images would have: (N, H, W, 3)."""
        return len(self), *self.size, 3

    @property
    def nbytes(self) -> int:
        """How many bytes the table takes."""
        return self.names.nbytes + self.ends.nbytes

    def path(self, row: int) -> str:
        """Returns the path of a row's file."""
        start = int(self.ends[row - 1]) if row else 0
        return os.fsdecode(self.names[start : int(self.ends[row])].tobytes())


@dataclass(frozen=True)
class Joined:
    """The images of two sets, those of `first` in front, each of which may be in memory, in files or packed."""

    first: "Pixels"
    second: "Pixels"

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape that an array of all images would have: (N, H, W, 3)."""
        _, height, width, channels = self.second.shape
        return len(self), height, width, channels


# The images of a data set: uint8 (N, H, W, 3), or where they are.
Pixels = Union[np.ndarray, FileTable, PackedFile, Joined]  # noqa: UP007


def join(first: Pixels, second: Pixels) -> Pixels:
    """Returns the images of two sets of one size, `first` in front. Two arrays become one array."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return np.concatenate([first, second])
    return Joined(first, second) if len(first) else second


def take(pixels: np.ndarray | FileTable | PackedFile, rows: np.ndarray) -> np.ndarray | FileTable:
    """Returns the images of these rows, in their order; those of a packed file as an array."""
    if isinstance(pixels, FileTable):
        paths = [pixels.path(row) for row in rows.tolist()]
        return table(paths, size=pixels.size, resizes=pixels.resizes, rules=pixels.rules)
    return (pixels.map() if isinstance(pixels, PackedFile) else pixels)[rows]


def table(paths: Iterable[str], *, size: tuple[int, int], resizes: bool, rules: Rules) -> FileTable:
    """Returns the table of these paths, in their order. The other arguments: see `FileTable`."""
    encoded = [os.fsencode(path) for path in paths]
    names = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    ends = np.cumsum(np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)))
    return FileTable(names, ends, size, resizes, rules)


def spread(count: int, most: int) -> Sequence[int]:
    """Returns at most `most` of the numbers 0 to count - 1, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)).tolist() if count else []
