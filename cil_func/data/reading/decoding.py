"""Many image files -> arrays, on a few threads; those that can't be read are told, or end the work."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cil_func.data.reading import image_file
from cil_func.errors import DataError

_CHUNK = 128  # images a job: few enough to share evenly, enough that 1.3 M images make no 1.3 M futures

# Pillow decodes outside the GIL but opens under it. Measured on 2 cores, PNG images/s with 1, 2, 8 threads:
# 32x32 10,700, 5,600, 4,400; 96x96 2,800, 4,200, 2,900; 256x256 340, 640, 570.
_THREADED_PIXELS = 96 * 96

Decoded = tuple[np.ndarray, dict[int, str]]
Read = Callable[..., np.ndarray]  # `images.read`, or it with some of its settings


class ImageMemory(NamedTuple):
    """Where images are put: empty(shape) makes an array of uint8; copies: how many processes of this machine hold
    images of their own, this one counted."""

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
    """Each split's files as one array uint8 (N, H, W, 3), and {row: reason} of those that could not be read.

    The pixels of such a row mean nothing. image_size: 0 needs all images of one size, that of the first that
    can be read; s brings each to s x s. stop: ends at the first file that can't be read; what follows it
    means nothing either. read: called with a file and image_size, by several threads; None: `images.read`. Without a
    single readable file in the first split, the arrays are empty.
    Raises DataError: two sizes, or more than the memory holds.
    """
    read = read or image_file.read
    with image_file.quiet():
        sample, unread = _first_readable(splits[0], stop, read)
        if sample is None:
            empty = np.empty((0, 0, 0, 3), dtype=np.uint8)
            return [(empty, unread), *((empty, {}) for _ in splits[1:])]
        file, height, width = sample
        threads = min(8, os.cpu_count() or 1) if height * width >= _THREADED_PIXELS else 1
        height, width = (image_size, image_size) if image_size else (height, width)
        check_memory(sum(map(len, splits)), height, width, copies=memory.copies)
        arrays = [memory.empty((len(files), height, width, 3)) for files in splits]
        ended = threading.Event()  # jobs that wait end at once
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
            except BaseException:  # an interrupt among them
                ended.set()
                raise
    return list(zip(arrays, found, strict=True))


def remove_rows(array: np.ndarray, rows: dict[int, str]) -> np.ndarray:
    """The array without these rows: the rest moves up in place, for a copy of a large set might not fit."""
    kept = [row for row in range(len(array)) if row not in rows]
    for new, old in enumerate(kept):
        if new != old:
            array[new] = array[old]
    return array[: len(kept)]


def check_memory(count: int, height: int, width: int, *, copies: int = 1) -> None:
    """Refuses a set of RGB images that wouldn't fit as often as it is held, before an hour of decoding."""
    needed, available = count * height * width * 3, _available_bytes()
    if needed * copies > available:
        each, fewer = (f" in each of {copies} processes", "images or processes") if copies > 1 else ("", "images")
        raise DataError(
            f"{count} images of {width}x{height} need {needed / 1e9:.1f} GB of memory{each}, "
            f"{available / 1e9:.1f} GB are available; set a smaller data.image_size or use fewer {fewer}"
        )


def _first_readable(
    files: Sequence[str], stop: bool, read: Read
) -> tuple[tuple[str, int, int] | None, dict[int, str]]:
    """(file, its height, its width) of the first that can be read, if any, and why those before it can't be."""
    unread: dict[int, str] = {}
    for row, file in enumerate(files):
        try:
            height, width, _ = read(file).shape
        except image_file.UnreadableError as error:
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
    """Reads one chunk of files, from row `start` on, into their rows; returns {row: reason} of the unreadable."""
    unread: dict[int, str] = {}
    for row, file in enumerate(files[start : start + _CHUNK], start):
        if ended.is_set():
            break
        try:
            pixels = read(file, image_size)
        except image_file.UnreadableError as error:
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


def _available_bytes() -> int:
    """Memory that can still be had: what Linux estimates, without which all the machine has, in bytes.

    SC_AVPHYS_PAGES won't do: it leaves out the page cache, which reading the images has just filled.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    left = _left_in_container()
    return available if left is None else min(available, left)


def _left_in_container(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's limit (cgroup 2) leaves, in bytes, beside what all its processes take; None: no limit.

    Files that were read count as taken there, and give way when memory is asked for.
    """
    try:
        limit, taken = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, limit - taken + int(stat["active_file"]) + int(stat["inactive_file"]))
    except (OSError, ValueError, KeyError):  # no such file, or "max"
        return None
