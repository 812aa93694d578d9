"""A packed file: the decoded pixels of a data set one after the other, and an index that says which images they are.

The index lies beside it and is called as it is, with ".index" behind. Its lines are JSON: first the header, then one
`Block` each. The file has its name once all of it is written, so the index of a file that is there is complete.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cil_func.errors import DataError

FORMAT = 1  # of the file and its index


class Block(NamedTuple):
    """Some consecutive image files, packed together.

    stamp: that of `listing.block_stamps`. images: how many of them are in the packed file.
    sha256: of their pixels, in hexadecimal. faults: (row of the file in the whole list, why it can't be used) of the
    others.
    """

    stamp: str
    images: int
    sha256: str
    faults: list[tuple[int, str]]


Header = dict[str, Any]  # what all blocks have in common: see `header`


@dataclass(frozen=True)
class PackedFile:
    """N consecutive images of a packed file.

    path: of the file. first: the number of the first of the images in it. count: N. size: (height, width) in pixels.
    digest: a SHA-256 of all pixels of the file, as bytes.
    """

    path: str
    first: int
    count: int
    size: tuple[int, int]
    digest: bytes

    def __len__(self) -> int:
        return self.count

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the array of all images: (N, H, W, 3)."""
        return self.count, *self.size, 3

    def map(self) -> np.ndarray:
        """Returns the images as a read-only array, uint8 (N, H, W, 3), that takes no memory of its own.

        The system reads a page of the file when it is looked at, keeps it for all processes of the machine, and drops
        it when memory is needed. Read-only, because the system counts a writable map as memory that it has to have.
        Raises DataError if the file is gone.
        """
        try:
            return np.memmap(self.path, np.uint8, "r", self.first * bytes_of(self.size), self.shape).view(np.ndarray)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path} can't be read any more ({error}); start again: it is packed anew") from error


def bytes_of(size: tuple[int, int]) -> int:
    """Returns how many bytes an image takes. size: (height, width)."""
    return size[0] * size[1] * 3


def header(size: tuple[int, int], *, resizes: bool, rules: Sequence, most: int) -> Header:
    """Returns the header of an index.

    size, resizes, rules: how files are decoded, see `file_table.FileTable`. most: how many files a block has, of which
    the last one may have fewer.
    """
    stored = json.loads(json.dumps(rules))  # as it is when it is read again
    return {"format": FORMAT, "size": [*size], "resizes": resizes, "rules": stored, "files_in_a_block": most}


def index_path(path: str) -> str:
    """Returns the path of a packed file's index."""
    return f"{path}.index"


def line(value: Header | Block) -> bytes:
    """Returns a header or a block as a line of an index."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def parsed(content: bytes) -> tuple[Header, list[Block]]:
    """Returns the header and the blocks of an index, up to the first line that isn't whole. ({}, []) without header.

    content: of the index. A process that is killed, or a full disk, may leave half a line.
    """
    values: list[Any] = []
    for text in content.splitlines(keepends=True):
        try:
            values.append(json.loads(text) if text.endswith(b"\n") else None)
            if len(values) > 1:
                stamp, images, sha256, faults = values[-1]
                values[-1] = Block(stamp, images, sha256, [(row, reason) for row, reason in faults])
        except (ValueError, TypeError):
            values.append(None)
        if values[-1] is None:
            break
    whole = [value for value in values if value is not None]
    return (whole[0], whole[1:]) if whole and isinstance(whole[0], dict) else ({}, [])


def digest(blocks: Sequence[Block]) -> bytes:
    """Returns a SHA-256 of all pixels of a packed file, made of those of its blocks."""
    return hashlib.sha256("\n".join(block.sha256 for block in blocks).encode()).digest()
