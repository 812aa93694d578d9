"""Decodes all images of a data set into a packed file, once for all runs, and opens such files.

A packing that was interrupted goes on: blocks whose files and pixels are still those that the index names are kept.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import BinaryIO

import numpy as np

from cil_func.data.reading import file_table, image_file, loading, locking, packed
from cil_func.data.reading.file_table import FileTable
from cil_func.data.reading.packed import Block, Header, PackedFile
from cil_func.errors import DataError, DiskError

_BLOCK_PIXELS = 1 << 21  # of a block: 41 images of 224 pixels, 6 MB in a worker's pipe
_MOST_OF_BLOCK = 1024  # files
_CHECKED = 16  # blocks whose pixels are looked at when a file is opened: 100 MB at most
_TOLD_BYTES = 10**8  # of a packing that takes so long that a person should know what happens


def files_in_a_block(size: tuple[int, int]) -> int:
    """Returns how many files are packed together. size: (height, width) of their images."""
    return min(_MOST_OF_BLOCK, max(1, _BLOCK_PIXELS // (size[0] * size[1])))


def path_of(places: Sequence[str], table: FileTable) -> str:
    """Returns the path of a table's packed file: where it is already, else the first place that can be written.

    places: paths without the end that tells apart sizes and rules; one or more, the preferred one first.
    """
    rules = hashlib.sha256(packed.line(_header(table))).hexdigest()[:8]
    paths = [f"{place}-{table.size[1]}x{table.size[0]}-{rules}.uint8" for place in places]
    there = [path for path in paths if os.path.exists(path)]
    return next(iter((*there, *filter(_can_be_made, paths))), paths[-1])


def _can_be_made(path: str) -> bool:
    """Returns whether this process may make a file of this path, and the folders above it that are missing."""
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return os.access(folder, os.W_OK)


def pack(
    table: FileTable, stamps: Sequence[str], path: str, *, first_test: int, workers: int, stop: bool
) -> tuple[dict[int, str], list[PackedFile]]:
    """Makes the packed file of a table's files if it isn't there.

    stamps: of the blocks of `files_in_a_block` files each. path: of the packed file. Its folder is made; other
    processes that want the same file wait until it is there. first_test: row of the first test image.
    workers: how many processes decode; 0: this one. stop: whether files that can't be used end the packing, before
    their block; if not, they are left out, but for images of another size, which end it.
    Returns ({row: reason} of the files that can't be used, [training images, test images]). If the packing has ended
    without all files, the faults are of one block, and there are no images.
    Raises DataError as `_opened` does, DiskError if the disk is too small or can't be written.
    """
    if not os.path.exists(path):
        with _disk_errors(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(packed.index_path(path), "a+b") as index:
                locking.lock(index)
                there = os.path.exists(path)  # another process may have made it meanwhile
                if not there and (faults := _write(path, index, table, stamps, workers=workers, stop=stop)):
                    return faults, []
    blocks = _opened(path, _header(table), stamps)
    faults = {row: reason for block in blocks for row, reason in block.faults}
    train = first_test - sum(row < first_test for row in faults)
    counts, pixels = (train, sum(block.images for block in blocks) - train), packed.digest(blocks)
    return faults, [PackedFile(path, first, n, table.size, pixels) for first, n in zip((0, train), counts, strict=True)]


def _header(table: FileTable) -> Header:
    most = files_in_a_block(table.size)
    return packed.header(table.size, resizes=table.resizes, rules=table.rules, most=most)


def _opened(path: str, wanted: Header, stamps: Sequence[str]) -> list[Block]:
    """Reads the index of a packed file that is there, and returns its blocks.

    wanted: the header that it must have. stamps: those of the blocks that it must have.
    Raises DataError if the file was made of other images or by other rules, or is damaged as far as is looked at: its
    length, and the pixels of _CHECKED blocks, evenly spread.
    """
    again = f"delete {path}, and it is made anew, or set data.packed to another folder"
    try:
        with open(packed.index_path(path), "rb") as stream:
            found, blocks = packed.parsed(stream.read())
        length = os.path.getsize(path)
    except OSError as error:
        raise DataError(f"the packed file's {packed.index_path(path)}: {error.strerror}; {again}") from error
    if (found, [block.stamp for block in blocks]) != (wanted, list(stamps)):
        raise DataError(f"the packed file is not of these images: files or settings have changed since; {again}")
    size = packed.bytes_of(tuple(wanted["size"]))
    if length != sum(block.images for block in blocks) * size:
        raise DataError(f"the packed file is damaged: {length:,} bytes, which is not what its index says; {again}")
    checked = file_table.spread(len(blocks), _CHECKED)
    if (damaged := _first_damaged(path, blocks, checked, size)) is not None:
        raise DataError(f"the packed file is damaged in block {damaged} of {len(blocks)}; {again}")
    return blocks


def _first_damaged(path: str, blocks: Sequence[Block], numbers: Sequence[int], size: int) -> int | None:
    """Returns the first of the `numbers` whose block has other pixels in the file than its SHA-256 says; None if none.

    size: bytes of an image.
    """
    starts = np.cumsum([0, *(block.images * size for block in blocks)]).tolist()
    with open(path, "rb") as stream:
        for number in numbers:
            stream.seek(starts[number])
            pixels = stream.read(blocks[number].images * size)
            if hashlib.sha256(pixels).hexdigest() != blocks[number].sha256:
                return number
    return None


def _write(
    path: str,
    index: BinaryIO,
    table: FileTable,
    stamps: Sequence[str],
    *,
    workers: int,
    stop: bool,
) -> dict[int, str]:
    """Packs all files into path + ".part", and renames that to `path` at the end.

    index: the open file of the index, locked. The other arguments: see `pack`.
    Returns the faults that have ended the packing; {} if all is packed.
    """
    part, size, most = f"{path}.part", packed.bytes_of(table.size), files_in_a_block(table.size)
    wanted = _header(table)
    blocks = _still_right(part, index, wanted, stamps, size)
    done = sum(block.images for block in blocks) * size
    _check_space(path, len(table), size, done=done)
    index.truncate(0)  # it appends wherever it has been read
    index.writelines([packed.line(wanted), *map(packed.line, blocks)])
    pieces = [range(start, min(start + most, len(table))) for start in range(0, len(table), most)][len(blocks) :]
    loaded = loading.start(table, map(loading.piece, pieces), change=None, workers=workers, most=most)
    tell = _teller(path, len(table), size)
    with open(part, "ab") as data, closing(loaded), image_file.quiet():
        data.truncate(done)  # it appends
        for stamp, rows, (pixels, faults, _) in zip(stamps[len(blocks) :], pieces, loaded, strict=True):
            if faults and (stop or any(reason.endswith(loading.ONE_SIZE) for _, reason in faults)):
                return dict(faults)
            if faults:
                pixels = np.delete(pixels, [row - rows.start for row, _ in faults], axis=0)
            data.write(pixels.data)
            block = Block(stamp, len(pixels), hashlib.sha256(pixels.data).hexdigest(), faults)
            index.write(packed.line(block))
            index.flush()
            tell(rows.stop)
        data.flush()
        os.fsync(data.fileno())  # before the rename: else a power cut may leave a file of holes under the final name
        os.fsync(index.fileno())
    os.replace(part, path)
    return {}


def _still_right(part: str, index: BinaryIO, wanted: Header, stamps: Sequence[str], size: int) -> list[Block]:
    """Returns those blocks, from the first one on, that an interrupted packing has left whole. size: of an image."""
    if not os.path.exists(part):
        return []
    index.seek(0)
    found, blocks = packed.parsed(index.read())
    same = [block.stamp == stamp for block, stamp in zip(blocks, stamps, strict=False)] if found == wanted else []
    blocks = blocks[: (*same, False).index(False)]
    return blocks[: _first_damaged(part, blocks, range(len(blocks)), size)]


def _check_space(path: str, count: int, size: int, *, done: int) -> None:
    """Raises DiskError if `count` images of `size` bytes don't fit on the disk. done: bytes that are there already."""
    needed, free = count * size - done, shutil.disk_usage(os.path.dirname(path)).free
    if needed > free:
        raise DiskError(
            f"packing {count:,} images needs {needed / 1e9:.1f} GB in {os.path.dirname(path)}, {free / 1e9:.1f} GB are "
            'free; set data.packed to a folder with more room, or data.storage = "streaming"'
        )


def _teller(path: str, count: int, size: int) -> Callable[[int], None]:
    """Returns a function of the number of files done so far, which prints a line for each tenth to stderr.

    It prints nothing if all the images, `count` of `size` bytes, are packed in no time.
    """
    told = [-1]

    def tell(done: int) -> None:
        if count * size >= _TOLD_BYTES and 10 * done // count > told[0]:
            told[0] = 10 * done // count
            with contextlib.suppress(OSError):  # nobody reads it
                print(f"packing {count:,} images into {path} ({count * size / 1e9:.1f} GB): {done:,}", file=sys.stderr)

    return tell


@contextlib.contextmanager
def _disk_errors(path: str) -> Iterator[None]:
    """Returns a context manager that turns an OSError of its block into a DiskError of one line about `path`."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOMEM:  # of starting a worker: not the disk's fault
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "free some space; the same command goes on" if full else "set data.packed to another folder"
        raise DiskError(f"{path}: {error.strerror or error}; {advice}") from error
