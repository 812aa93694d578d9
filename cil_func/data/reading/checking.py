"""Looks at image files that are streamed before the run begins: their size, and which of them can't be used.

Decoding all of them takes as long as an epoch. So that is done only where files are skipped, since the rows have to be
known. Else a file that is damaged inside is found in training, which stops there.
"""

from collections.abc import Sequence
from typing import NamedTuple

from cil_func.data.reading import decoding, file_table, image_file, loading
from cil_func.data.reading.file_table import FileTable
from cil_func.errors import DataError

_LOOKED_AT = 20_000  # files whose beginning and end are looked at: some seconds, but of kinds without an end decoded
_DECODED = 256  # files that are decoded, evenly spread
_PIECE = 32  # files that a worker decodes in one go
_RESIDENT_SHARE = 0.5  # of the free memory, that images in memory may take by themselves


def are_large(files: Sequence[str], image_size: int, *, copies: int) -> bool:
    """Returns whether the images of `files` need more than half of the free memory, so that they are better streamed.

    image_size: the side that they are brought to, 0: their own. copies: how many processes would store them.
    """
    with image_file.quiet():
        sample = None if image_size else decoding.first_readable(files, False, image_file.read)[0]
    height, width = sample[1:] if sample else (image_size, image_size)
    return len(files) * height * width * 3 * copies > _RESIDENT_SHARE * decoding.available_bytes()


def size_of(files: Sequence[str], image_size: int, read: decoding.Read) -> tuple[int, int]:
    """Returns (height, width) of all images: image_size, or at 0 the size of the first file that can be read.

    read: called as read(file). Raises DataError if no file can be read.
    """
    if image_size:
        return image_size, image_size
    with image_file.quiet():
        sample, unread = decoding.first_readable(files, False, read)
    if sample is None:
        raise DataError(f"no image can be read, the first one is {files[0]}: {next(iter(unread.values()))}")
    return sample[1], sample[2]


class Looked(NamedTuple):
    """What was found in the files of a table.

    faults: {row: reason} of those that can't be used. odd: (row, what) of those that are odd, see `image_file.read`,
    among the first `decoded` that were decoded for it.
    """

    faults: dict[int, str]
    odd: list[tuple[int, str]]
    decoded: int


def look(table: FileTable, *, all_of: bool, workers: int) -> Looked:
    """Finds files that can't be used, and those that are odd.

    all_of: whether to decode every file, by `workers` processes. If not, some are decoded, and of most the beginning
    and the end are looked at, which finds what is empty, cut off or no image.
    """
    with image_file.quiet():
        if all_of:
            return _decoded(table, range(len(table)), workers)
        faults, odd, decoded = _decoded(table, file_table.spread(len(table), _DECODED), 0)
        side = table.size[0] if table.resizes else 0
        looked_at = [row for row in file_table.spread(len(table), _LOOKED_AT) if row not in faults]
        unclear = [row for row in looked_at if not image_file.looks_whole(table.path(row), side)]
        faults |= _decoded(table, unclear, workers).faults
    return Looked(dict(sorted(faults.items())), odd, decoded)


def _decoded(table: FileTable, rows: Sequence[int], workers: int) -> Looked:
    """Decodes the files of these rows."""
    pieces = (loading.piece(rows[start : start + _PIECE]) for start in range(0, len(rows), _PIECE))
    loaded = loading.start(table, pieces, change=None, workers=workers, keep=False)
    faults: dict[int, str] = {}
    odd: list[tuple[int, str]] = []
    for piece in loaded:
        faults |= dict(piece.faults)
        odd += piece.odd
    return Looked(faults, odd, len(rows))
