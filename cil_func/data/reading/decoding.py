"""Reads many image files into arrays, on a few threads."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cil_func.data.reading import image_file
from cil_func.data.reading.pixels import UnreadableError
from cil_func.errors import DataError

_CHUNK = 128  # images a job: few enough to share evenly, enough that 1.3 M images make no 1.3 M futures

# Pillow decodes outside the GIL but opens under it. Measured on 2 cores, PNG images/s with 1, 2, 8 threads:
# 32x32 10,700, 5,600, 4,400; 96x96 2,800, 4,200, 2,900; 256x256 340, 640, 570.
_THREADED_PIXELS = 96 * 96

Decoded = tuple[np.ndarray, dict[int, str]]  # images (N, H, W, 3), and {row: reason} of those that can't be read
Read = Callable[..., np.ndarray]  # `image_file.read`, or a partial of it


class ImageMemory(NamedTuple):
    """Where the images of a data set are stored.

    empty: called as empty(shape), returns an array of uint8 of this shape.
    copies: how many processes of this machine store the images each for itself, this one included; the check of free
    memory counts them all.
    """

    empty: Callable[[tuple[int, ...]], np.ndarray] = partial(np.empty, dtype=np.uint8)
    copies: int = 1


OWN_MEMORY = ImageMemory()


def read_all(
    splits: Sequence[Sequence[str]],
    image_size: int,
    *,
    stop: bool,
    read: Read | None = None,
    memory: ImageMemory = OWN_MEMORY,
) -> list[Decoded]:
    """Reads several lists of image files, each into one array.

    splits: the lists of paths, the training files first. image_size: 0 if all images have one size, which is taken from
    the first one that can be read; otherwise each is brought to image_size x image_size.
    stop: if true, reading ends at the first file that can't be read; then all rows after it are undefined. If false,
    such files are noted and the others are read.
    read: called as read(file, image_size) by several threads; None for `image_file.read`.
    memory: makes the arrays.
    Returns for each list (images uint8 (N, H, W, 3), {row: reason} of the files that can't be read). The pixels of
    such a row are undefined. If no file of the first list that isn't empty can be read, all arrays are empty.
    Raises DataError if two images differ in size or if the images need more memory than is free.
    """
    read = read or image_file.read
    with image_file.quiet():
        first = next(filter(None, splits), splits[0])
        sample, unread = first_readable(first, stop, read)
        if sample is None:
            return [(np.empty((0, 0, 0, 3), dtype=np.uint8), unread if own is first else {}) for own in splits]
        file, height, width = sample
        threads = min(8, os.cpu_count() or 1) if height * width >= _THREADED_PIXELS else 1
        height, width = (image_size, image_size) if image_size else (height, width)
        check_memory(sum(map(len, splits)), height, width, copies=memory.copies)
        arrays = [memory.empty((len(files), height, width, 3)) for files in splits]
        ended = threading.Event()  # set if the jobs that have not begun are to do nothing
        with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
            jobs = [
                [
                    pool.submit(_fill, array, files, start, image_size, file, ended, stop, read)
                    for start in range(0, len(files), _CHUNK)
                ]
                for files, array in zip(splits, arrays, strict=True)
            ]
            try:
                found = [{row: reason for job in split for row, reason in job.result().items()} for split in jobs]
            except BaseException:  # includes an interrupt
                ended.set()
                raise
    return list(zip(arrays, found, strict=True))


def remove_rows(array: np.ndarray, rows: dict[int, str]) -> np.ndarray:
    """Returns the array without some of its rows, as a view of its beginning. The array itself is changed.

    rows: a dict whose keys are the numbers of the rows to remove.
    Moves the other rows up in place, since a copy of a large data set might not fit into memory.
    """
    kept = [row for row in range(len(array)) if row not in rows]
    for new, old in enumerate(kept):
        if new != old:
            array[new] = array[old]
    return array[: len(kept)]


def check_memory(count: int, height: int, width: int, *, copies: int = 1) -> None:
    """Raises DataError if `count` RGB images of height x width don't fit into the free memory.

    copies: how many processes of this machine store the images each for itself.
    Call it before the images are decoded, which may take an hour.
    """
    needed, available = count * height * width * 3, available_bytes()
    if needed * copies > available:
        each, fewer = (f" in each of {copies} processes", "images or processes") if copies > 1 else ("", "images")
        raise DataError(
            f"{count} images of {width}x{height} need {needed / 1e9:.1f} GB of memory{each}, "
            f"{available / 1e9:.1f} GB are available; set a smaller data.image_size or use fewer {fewer}"
        )


def first_readable(
    files: Sequence[str], stop: bool, read: Read
) -> tuple[tuple[str, int, int] | None, dict[int, str]]:
    """Finds the first file that can be read.

    stop: whether to give up at the first file that can't be read.
    Returns ((file, its height, its width), {row: reason} of the files before it); None instead of the first if no file
    can be read.
    """
    unread: dict[int, str] = {}
    for row, file in enumerate(files):
        try:
            height, width, _ = read(file).shape
        except UnreadableError as error:
            unread[row] = str(error)
            if stop:
                break
        else:
            return (file, height, width), unread
    return None, unread


def _fill(
    array: np.ndarray,
    files: Sequence[str],
    start: int,
    image_size: int,
    sample: str,
    ended: threading.Event,
    stop: bool,
    read: Read,
) -> dict[int, str]:
    """Reads one chunk of files, from row `start` on, into their rows of `array`, uint8 (N, H, W, 3).

    files: all files of the array. image_size, stop, read: as in `read_all`.
    sample: a file of the right size, for the message about another size.
    ended: once it is set, nothing more is read. It is set here at the first file that can't be read if `stop` is true,
    and at an image of another size.
    Returns {row: reason} of the files that can't be read. Raises DataError for an image of another size.
    """
    unread: dict[int, str] = {}
    for row, file in enumerate(files[start : start + _CHUNK], start):
        if ended.is_set():
            break
        try:
            pixels = read(file, image_size)
        except UnreadableError as error:
            unread[row] = str(error)
            if stop:
                ended.set()
            continue
        if pixels.shape != array[row].shape:
            ended.set()
            raise DataError(_two_sizes(sample, array[row].shape, file, pixels.shape))
        array[row] = pixels
    return unread


def _two_sizes(first: str, expected: tuple[int, ...], other: str, found: tuple[int, ...]) -> str:
    return (
        f"images differ in size: {first} is {expected[1]}x{expected[0]}, {other} is {found[1]}x{found[0]}; "
        "set data.image_size to bring all to one size"
    )


def available_bytes() -> int:
    """Returns how many bytes of memory are free: Linux's estimate, on other systems the memory of the machine.

    SC_AVPHYS_PAGES is not used: it doesn't count the page cache, which reading the images has just filled.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    left = _left_in_container()
    return available if left is None else min(available, left)


def _left_in_container(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Returns how many bytes a container's limit (cgroup 2) leaves to its processes; None if there is no limit.

    folder: of the cgroup's files. Its count of used memory includes cached files; they are subtracted, since the
    system drops them when memory is needed.
    """
    try:
        limit, taken = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, limit - taken + int(stat["active_file"]) + int(stat["inactive_file"]))
    except (OSError, ValueError, KeyError):  # there is no such file, or its content is "max"
        return None
