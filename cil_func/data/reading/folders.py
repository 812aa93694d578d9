"""Reads folders of image files into uint8 arrays, and refuses by name what people get wrong in such folders."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from cil_func.data.reading import checking, decoding, file_table, image_file, listing, loading, odd_images, packing
from cil_func.data.reading.file_table import Pixels
from cil_func.data.reading.listing import Files, Listing
from cil_func.data.reading.pixels import Rules, UnreadableError
from cil_func.errors import DataError, Mistakes

_LOOKED_AT = 200  # files that are read after a mistake, to name those that can't be read in the same message


class Settings(NamedTuple):
    """How a folder of images is read.

    image_size: 0 if all images have one size; otherwise each is brought to image_size x image_size, see
    `image_file.resize`. test_names: the names that the test folder may have, see `listing.list_images`.
    skip: whether files that can't be read are left out; if not, they are mistakes. rules: about orientation and
    transparent pixels. check: called with the class names before any image is read; it may raise DataError.
    memory: where the images are stored. storage: "resident" reads all images into memory, "streaming" leaves them in
    their files, "auto" takes streaming for images that need more than half of the free memory, "packed" decodes them
    into a packed file. workers: how many processes may decode. packed: where the packed file may be, see
    `packing.path_of`. lists: called as lists(path, test_names=..., skip=...), returns the Listing; None:
    `listing.list_images`. one_class: whether a folder of a single class is allowed.
    """

    image_size: int = 0
    test_names: Sequence[str] = ("test", "val")
    skip: bool = False
    rules: Rules = image_file.UPRIGHT_ON_WHITE
    check: Callable[[tuple[str, ...]], None] = lambda class_names: None
    memory: decoding.ImageMemory = decoding.OWN_MEMORY
    storage: str = "resident"
    workers: int = 0
    packed: Sequence[str] = ()
    lists: Callable[..., Listing] | None = None
    one_class: bool = False


class Folder(NamedTuple):
    """What a folder of images holds.

    train_images, test_images: uint8 (N, H, W, 3), or the files. train_targets, test_targets: int64 (N,), positions in
    `class_names`, which are sorted. skipped: one line for each file that was left out, like "train/cat/3.png: the file
    is empty". warnings: one line for each thing that is odd and no mistake. stamp: see `listing.stamp`.
    train_files: the path of each training image.
    """

    train_images: Pixels
    train_targets: np.ndarray
    test_images: Pixels
    test_targets: np.ndarray
    class_names: tuple[str, ...]
    skipped: tuple[str, ...]
    warnings: tuple[str, ...]
    stamp: str
    train_files: tuple[str, ...]


DEFAULT = Settings()


def read(path: str, settings: Settings = DEFAULT) -> Folder:
    """Reads the images in `path/train/<class>/**` and `path/test/<class>/**`, or lists their files.

    Rows are sorted by class, then by path. Links are followed, names that begin with a dot are ignored. Class names are
    in Unicode's form NFC; bytes that are not UTF-8 become "\\xff".
    Raises DataError, one line, for whatever is missing, empty, unreadable, of two sizes or too large for the memory.
    Of files that are streamed those that can't be decoded are found in part, see `checking`.
    """
    found = (settings.lists or listing.list_images)(path, test_names=settings.test_names, skip=settings.skip)
    class_names = tuple(map(listing.text_of, found.class_names))
    mistakes = Mistakes()
    if found.class_names:
        with mistakes.collected():
            settings.check(class_names)
    lone = [] if settings.one_class else found.single_class
    if found.mistakes or lone or mistakes.lines:
        Mistakes([*found.mistakes, *lone, *mistakes.lines, *_unreadable(found)]).refuse()
    stamp = listing.stamp(found)
    images, kept = _SPLITS[_storage(found, settings)](found, settings)
    train_images, train_targets, test_images, test_targets = images
    return Folder(
        train_images,
        train_targets,
        test_images,
        test_targets,
        class_names,
        tuple(found.skipped) if settings.skip else (),
        tuple(found.warnings),
        stamp,
        tuple(kept),
    )


def _storage(found: Listing, settings: Settings) -> str:
    """Returns settings.storage, where "auto" has become "streaming" or "resident"."""
    if settings.storage != "auto":
        return settings.storage
    files = [file for split in found.splits for file, _ in split]
    large = checking.are_large(files, settings.image_size, copies=settings.memory.copies)
    return "streaming" if large else "resident"


Splits = tuple[list, list[str]]  # [train images, train targets, test images, test targets], and the training files


def _read_splits(found: Listing, settings: Settings) -> Splits:
    """Reads all images into memory. Returns `Splits`, without the files that are skipped.

    found: files that can't be read are noted in it, and a warning for each thing that is odd about images.
    Raises DataError for a file that can't be read and is not skipped, and for a class of which no image is left.
    """
    files = [[file for file, _ in split] for split in found.splits]
    noted: set[tuple[str, str]] = set()
    reader = partial(image_file.read, rules=settings.rules, report=lambda file, what: noted.add((what, file)))
    try:
        decoded = decoding.read_all(
            files, settings.image_size, stop=not found.skip, read=reader, memory=settings.memory
        )
    except MemoryError:
        raise DataError("the images need more memory than there is; set a smaller data.image_size") from None
    # Without `skip` reading has ended at the first one, and the next files were not looked at.
    kept = _kept_rows(found, [unread for _, unread in decoded], more=lambda at, row: _unreadable(found, at, row))
    arrays = [decoding.remove_rows(array, unread) for array, unread in decoded]
    found.warnings += odd_images.warnings(Counter(what for what, _ in noted), settings.rules)
    return _splits(found, arrays, kept)


def _list_splits(found: Listing, settings: Settings) -> Splits:
    """Returns the `Splits` of images that stay in their files; the rest is as in `_read_splits`.

    The warnings are of the images that were decoded.
    """
    files = [[file for file, _ in split] for split in found.splits]
    size = checking.size_of(files[0] or files[1], settings.image_size, image_file.read)
    make = partial(file_table.table, size=size, resizes=bool(settings.image_size), rules=settings.rules)
    checked = [checking.look(make(paths), all_of=found.skip, workers=settings.workers) for paths in files]
    kept = _kept_rows(found, [each.faults for each in checked])
    odd, decoded = Counter(what for each in checked for _, what in each.odd), sum(each.decoded for each in checked)
    of = "" if decoded == sum(map(len, files)) else f" of the {decoded} that were looked at"
    found.warnings += odd_images.warnings(odd, settings.rules, of=of)
    return _splits(found, [make([paths[row] for row in rows]) for paths, rows in zip(files, kept, strict=True)], kept)


def _pack_splits(found: Listing, settings: Settings) -> Splits:
    """Returns the `Splits` of images in a packed file, which is made if need be; else as `_read_splits`."""
    files = [[file for file, _ in split] for split in found.splits]
    size, border = checking.size_of(files[0], settings.image_size, image_file.read), len(files[0])
    made = file_table.table([*files[0], *files[1]], size=size, resizes=settings.image_size > 0, rules=settings.rules)
    stamps = listing.block_stamps(found, packing.files_in_a_block(size))
    path, workers = packing.path_of(settings.packed, made), settings.workers
    faults, images = packing.pack(made, stamps, path, first_test=border, workers=workers, stop=not found.skip)
    train = {row: reason for row, reason in faults.items() if row < border}
    tests = {row - border: reason for row, reason in faults.items() if row >= border}
    kept = _kept_rows(found, [train, tests], more=lambda at, row: _unreadable(found, at, row))
    return _splits(found, images, kept)


_SPLITS = {"resident": _read_splits, "streaming": _list_splits, "packed": _pack_splits}


def _kept_rows(
    found: Listing, unread: list[dict[int, str]], more: Callable[[int, int], list[str]] = lambda split, row: []
) -> list[list[int]]:
    """Returns for each split the rows whose files can be read, and notes the others in `found`.

    unread: for each split {row: reason} of the others. An image of another size is sound, so it is a mistake, and not
    skipped. more: called as more(split, row) for mistakes in the files from
    that row on.
    Raises DataError if a file can't be read and isn't skipped, or if no image of a class is left.
    """
    lost = Mistakes()
    for number, (split, faults) in enumerate(zip(found.splits, unread, strict=True)):
        for row, reason in faults.items():
            if reason.endswith(loading.ONE_SIZE):
                found.mistakes.append(f"images differ in size: {split[row][0]} has {reason}")
            else:
                found.note(split[row][0], reason)
        if found.mistakes:
            Mistakes([*found.mistakes, *more(number, max(faults) + 1)]).refuse()
        lost.lines += _lost_classes(split, faults, found.class_names)
    lost.refuse()
    return [
        [row for row in range(len(split)) if row not in faults]
        for split, faults in zip(found.splits, unread, strict=True)
    ]


def _splits(found: Listing, images: list, kept: list[list[int]]) -> Splits:
    """Returns the `Splits`: images of each split, with the targets of the rows that were kept."""
    targets = [
        np.array([split[row][1] for row in rows], dtype=np.int64)
        for split, rows in zip(found.splits, kept, strict=True)
    ]
    return [images[0], targets[0], images[1], targets[1]], [found.splits[0][row][0] for row in kept[0]]


def _unreadable(found: Listing, split: int = 0, row: int = 0) -> list[str]:
    """Reads the next files of a listing and returns a mistake for each that can't be read.

    split: the number of the split to begin in, 0 for training. row: the first file there. At most 200 files are read.
    Returns [] if files that can't be read are skipped.
    """
    if found.skip:
        return []
    files = [*found.splits[split][row:], *(file for later in found.splits[split + 1 :] for file in later)]
    more = Listing(found.root, skip=False)
    with image_file.quiet():
        for file, _ in files[:_LOOKED_AT]:
            try:
                image_file.read(file)
            except UnreadableError as error:
                more.note(file, str(error))
    return more.mistakes


def _lost_classes(files: Files, unread: dict[int, str], class_names: tuple[str, ...]) -> list[str]:
    """Returns a mistake for each class of which no image can be read.

    files: of one split; unread: {row: reason} of the files that can't be read; class_names: of the indices in `files`.
    """
    left = {target for row, (_, target) in enumerate(files) if row not in unread}
    lost: dict[int, str] = {}
    for row, reason in unread.items():
        file, target = files[row]
        if target not in left:
            lost.setdefault(target, f"{file}: {reason}")
    return [
        f"class {class_names[target]!r} has no image that can be read ({first}); repair them or remove the class"
        for target, first in lost.items()
    ]
