"""Decodes image files in worker processes while others are trained on, by torch's DataLoader.

What is decoded, in which order and by which seed is decided before: nothing depends on the number of workers.
"""

import errno
import gc
import mmap
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from cil_func.data.reading import image_file
from cil_func.data.reading.file_table import FileTable
from cil_func.data.reading.pixels import UnreadableError
from cil_func.errors import DataError, MachineError

ONE_SIZE = "set data.image_size to bring all to one size"  # the end of what is said of an image of another size
AHEAD = 4  # pieces a worker prepares ahead
# Forked workers share memory with this process. Python 3.14 would take forkserver on Linux. None: the system's own way.
_START = "fork" if sys.platform.startswith("linux") else None
_WATCH_SECONDS = 0.5  # between two looks of a worker whether its parent lives


class Piece(NamedTuple):
    """Some images that one worker decodes in one go.

    rows: int64 (B,). draws: {name: (B, ...)}, what `Change` uses of the images' draws.
    """

    rows: np.ndarray
    draws: dict[str, np.ndarray]


def piece(rows: Sequence[int]) -> Piece:
    """Returns a piece without draws."""
    return Piece(np.array(rows, dtype=np.int64), {})


class Loaded(NamedTuple):
    """A piece, decoded.

    pixels: uint8 (B, H, W, 3), which may change once the next piece is taken; undefined for the files in `faults`.
    faults: (row, why its file can't be used), which ends with ONE_SIZE for a sound image of another size. odd: (row,
    what), see `image_file.read`.
    """

    pixels: np.ndarray
    faults: list[tuple[int, str]]
    odd: list[tuple[int, str]]


class Change(Protocol):
    """What happens to training images where they are decoded. Must be a value that can be sent to another process."""

    def cut(self, image: Image.Image, seed: int, /, *, size: tuple[int, int]) -> Image.Image:
        """Returns a random part of an image, brought to (height, width)."""
        ...

    def apply(self, pixels: np.ndarray, draws: dict[str, np.ndarray], /) -> np.ndarray:
        """Returns the images of a piece, uint8 (B, H, W, 3), changed."""
        ...


def start(
    table: FileTable, pieces: Iterable[Piece], *, change: Change | None, workers: int, keep: bool = True, most: int = 0
) -> Generator[Loaded]:
    """Returns a generator of the pieces, decoded, in their order. Workers start in this call, and end with it.

    table: the files. pieces: may be iterated once, ahead of what is taken. change: what to do with images, None:
    nothing. workers: how many processes decode; 0: the thread that takes pieces does it. keep: whether pixels are
    wanted; if not, the arrays are empty, and only files that can't be used are found. most: how many images a piece
    has at most, for memory through which workers hand over pixels; 0: not known, a pipe takes them, which is slower.
    Raises MachineError if the workers can't be started since the memory that they share with this process is full.
    """
    if not workers:
        image_file.hush()
    slots = _slots(workers, (most, *table.shape[1:])) if keep and most and workers else None
    with warnings.catch_warnings():  # of more workers than cores, and since 3.12 of a fork beside threads
        warnings.simplefilter("ignore")
        loader = DataLoader(
            _Decoder(table, change, keep, slots),
            batch_size=None,
            sampler=enumerate(pieces),
            num_workers=workers,
            collate_fn=_as_it_is,  # type: ignore[arg-type]  # torch's hint forgets that batch_size may be None
            worker_init_fn=partial(_begin_worker, os.getpid()),
            prefetch_factor=AHEAD if workers else None,
            multiprocessing_context=_START if workers else None,
            generator=torch.Generator(),  # else it would draw from the global one
        )
        loaded = _begun(loader)
    return (_taken(sent, number, slots) for number, sent in enumerate(loaded))


def read(
    table: FileTable, row: int, change: Change | None = None, seed: int | None = None,
    *, report: Callable[[str, str], None] = lambda file, what: None,
) -> np.ndarray:  # fmt: skip
    """Returns the image of a row, uint8 (H, W, 3), of the table's size.

    change, seed: if both are given, the random part that `change` cuts out; else the whole image by the table's rule.
    report: see `image_file.read`.
    Raises UnreadableError for a file that can't be used, or whose image has another size.
    """
    cut = None if change is None or seed is None else lambda image: change.cut(image, seed, size=table.size)
    side = table.size[0] if table.resizes else 0
    pixels = image_file.read(table.path(row), side, rules=table.rules, instead=cut, report=report)
    if pixels.shape[:2] != table.size:
        (height, width), (found_high, found_wide) = table.size, pixels.shape[:2]
        raise UnreadableError(f"{found_wide}x{found_high} pixels, and others have {width}x{height}; {ONE_SIZE}")
    return pixels


def refuse(table: FileTable, faults: list[tuple[int, str]]) -> None:
    """Raises DataError that names the files of `faults`, (row, reason) each; returns if there are none."""
    if faults:
        raise DataError(*(f"image {table.path(row)}: {reason}; repair or put it back" for row, reason in faults))


class _Sent(NamedTuple):
    """What a worker sends of a piece.

    images: how many it has. pixels: None if they are in the piece's slot. faults, odd: see `Loaded`.
    """

    images: int
    pixels: np.ndarray | None
    faults: list[tuple[int, str]]
    odd: list[tuple[int, str]]


def _begun(loader: DataLoader) -> Iterator[_Sent]:
    """Returns the iterator of a loader, whose workers it starts. Raises MachineError, see `start`."""
    try:
        return iter(loader)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EMFILE, errno.ENFILE):
            raise
        traceback.clear_frames(error.__traceback__)  # what torch has begun is not finished by Python at some later time
        full = error.errno == errno.ENOSPC and _START
        way_out = " in /dev/shm; make room there, or set data.workers = 0" if full else "; set data.workers = 0"
        raise MachineError(f"processes that decode can't be started: {error.strerror}{way_out}") from None


def _slots(workers: int, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns memory that the workers will share with this process: a slot for each piece that may be on its way.

    shape: of a slot. Returns None if there is no such memory, or if workers aren't forked, which would not inherit it.
    A piece has the slot number % len(slots). When a piece is handed out, AHEAD pieces a worker are behind it, all in
    other slots. Memory without a file is not limited as /dev/shm is, to 64 MB in many containers.
    """
    count = workers * AHEAD + 1
    if _START != "fork":
        return None
    try:
        memory = mmap.mmap(-1, count * int(np.prod(shape)))
    except OSError:
        return None
    return np.frombuffer(memory, dtype=np.uint8).reshape(count, *shape)


def _taken(sent: _Sent, number: int, slots: np.ndarray | None) -> Loaded:
    """Returns the piece of this number, as a worker has sent it."""
    if sent.pixels is not None:
        return Loaded(sent.pixels, sent.faults, sent.odd)
    assert slots is not None
    return Loaded(slots[number % len(slots), : sent.images], sent.faults, sent.odd)


class _Decoder(Dataset):
    """What a worker does: `decoder[number, piece]` is the piece, decoded. slots: see `_slots`; None: none."""

    def __init__(self, table: FileTable, change: Change | None, keep: bool, slots: np.ndarray | None) -> None:
        self.table, self.change, self.keep, self.slots = table, change, keep, slots

    def __getitem__(self, numbered: tuple[int, Piece]) -> _Sent:
        number, piece = numbered
        count = len(piece.rows)
        if self.slots is None:
            pixels = np.zeros((count, *self.table.shape[1:]), dtype=np.uint8)
        else:
            pixels = self.slots[number % len(self.slots), :count]
        faults: list[tuple[int, str]] = []
        odd: list[tuple[int, str]] = []
        seeds = piece.draws.get("window")
        for slot, row in enumerate(piece.rows.tolist()):
            try:
                seed = None if seeds is None else int(seeds[slot])
                report = partial(_note, odd, row)
                pixels[slot] = read(self.table, row, self.change, seed, report=report)
            except UnreadableError as error:
                faults.append((row, str(error)))
        if self.change and not faults:
            changed = self.change.apply(pixels, piece.draws)
            if self.slots is None:
                pixels = changed
            elif changed is not pixels:
                pixels[:] = changed
        # A numpy array goes through a pipe. A tensor would go through /dev/shm, as `_slots` says of it.
        return _Sent(count, None if self.slots is not None else pixels if self.keep else pixels[:0], faults, odd)


def _note(odd: list[tuple[int, str]], row: int, file: str, what: str) -> None:
    odd.append((row, what))


def _as_it_is(sent: _Sent) -> _Sent:
    return sent


def _begin_worker(parent: int, worker: int) -> None:
    """Prepares a worker process. parent: the process that started it. worker: its number.

    Launchers send a signal to all processes of a job. The parent then saves, for which it may need more images, so a
    worker goes on until its parent ends it or is gone.
    """
    gc.freeze()  # else collecting garbage would copy pages that are shared with the parent
    image_file.hush()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):  # of a terminal that was closed
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(signal, "sigtimedwait"):  # on Linux
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> Any:
    while True:
        got = signal.sigtimedwait({signal.SIGTERM}, _WATCH_SECONDS)
        if os.getppid() != parent or (got and got.si_pid == parent):
            os._exit(0)
