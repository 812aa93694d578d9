"""Reads folders of image files into uint8 arrays, and refuses by name what people get wrong in such folders."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from cil_func.data.reading import decoding, image_file, listing
from cil_func.data.reading.listing import Files, Listing
from cil_func.data.reading.pixels import DARK, TRANSPARENT, TURNED, Rules, UnreadableError
from cil_func.errors import DataError, Mistakes

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]
_LOOKED_AT = 200  # files that are read after a mistake, to name those that can't be read in the same message


def read(
    path: str,
    *,
    image_size: int = 0,
    test_names: Sequence[str] = ("test", "val"),
    skip: Callable[[str], None] | None = None,
    rules: Rules = image_file.UPRIGHT_ON_WHITE,
    warn: Callable[[str], None] = lambda line: None,
    check: Callable[[tuple[str, ...]], None] = lambda class_names: None,
    listed: Callable[[Listing], object] = lambda found: None,
    kept: Callable[[list[str]], object] = lambda files: None,
    memory: decoding.ImageMemory = decoding.OWN_MEMORY,
) -> Arrays:
    """Reads the images in `path/train/<class>/**` and `path/test/<class>/**`.

    image_size: 0 if all images have one size; otherwise each is brought to image_size x image_size, see
    `image_file.resize`. test_names: the names that the test folder may have, see `listing.list_images`.
    skip: called with a line like "train/cat/3.png: the file is empty" for each file that can't be read, which is then
    left out. If it is None, such a file raises DataError. rules: about orientation and transparent pixels.
    warn: called with one line for each thing that is odd and no mistake. check: called with the class names before any
    image is read; it may raise DataError. listed: called with the Listing before the images are read. kept: called with
    the training files that were read, in the order of the rows.
    memory: where the images are stored.

    Returns (train images uint8 (N, H, W, 3), train targets int64 (N,), test images, test targets, class names). A
    target is the position in the sorted class names. Rows are sorted by class, then by path. Links are followed, names
    that begin with a dot are ignored. Class names are in Unicode's form NFC; bytes that are not UTF-8 become "\\xff".
    Raises DataError, one line, for whatever is missing, empty, unreadable, of two sizes or too large for the memory.
    """
    found = listing.list_images(path, test_names=test_names, skip=skip is not None)
    class_names = tuple(map(listing.text_of, found.class_names))
    mistakes = Mistakes()
    if found.class_names:
        with mistakes.collected():
            check(class_names)
    if found.mistakes or mistakes.lines:
        Mistakes([*found.mistakes, *mistakes.lines, *_unreadable(found)]).refuse()
    listed(found)
    noted: set[tuple[str, str]] = set()
    reader = partial(image_file.read, rules=rules, report=lambda file, what: noted.add((what, file)))
    arrays = _read_splits(found, image_size, reader, memory, kept)
    for line in [*found.warnings, *_warnings(Counter(what for what, _ in noted), rules)]:
        warn(line)
    if skip:
        for line in found.skipped:
            skip(line)
    train_images, train_targets, test_images, test_targets = arrays
    return train_images, train_targets, test_images, test_targets, class_names


def _read_splits(
    found: Listing,
    image_size: int,
    reader: decoding.Read,
    memory: decoding.ImageMemory,
    kept: Callable[[list[str]], object],
) -> list[np.ndarray]:
    """Returns [train images, train targets, test images, test targets], without the files that are skipped.

    found: the listing; files that can't be read are noted in it. image_size, reader, memory: see `decoding.read_all`.
    kept: called with the training files that are not skipped.
    Raises DataError for a file that can't be read and is not skipped, and for a class of which no image is left.
    """
    files = [[file for file, _ in split] for split in found.splits]
    try:
        decoded = decoding.read_all(files, image_size, stop=not found.skip, read=reader, memory=memory)
    except MemoryError:
        raise DataError("the images need more memory than there is; set a smaller data.image_size") from None
    arrays, lost = [], Mistakes()
    for number, (split, (array, unread)) in enumerate(zip(found.splits, decoded, strict=True)):
        for row, reason in unread.items():
            found.note(split[row][0], reason)
        if found.mistakes:  # reading has ended at the first one
            Mistakes([*found.mistakes, *_unreadable(found, number, max(unread) + 1)]).refuse()
        lost.lines += _lost_classes(split, unread, found.class_names)
        targets = [target for row, (_, target) in enumerate(split) if row not in unread]
        arrays += [decoding.remove_rows(array, unread), np.array(targets, dtype=np.int64)]
        if number == 0:
            kept([file for row, (file, _) in enumerate(split) if row not in unread])
    lost.refuse()
    return arrays


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


def _warnings(counts: Counter, rules: Rules) -> Iterator[str]:
    """Yields one line for each of TURNED, TRANSPARENT and DARK that is true of some images.

    counts: {one of the three: how many images it is true of}. rules: what was done with such images.
    """
    if turned := counts[TURNED]:
        done = "turned upright" if rules.upright else "left as stored"
        yield f"{_images(turned)} with an orientation in EXIF: {done} (data.exif_orientation)"
    if transparent := counts[TRANSPARENT]:
        shown = "the colours stored there" if rules.background is None else f"the colour {list(rules.background)}"
        yield f"{_images(transparent)} with transparent parts: these show {shown} (data.background)"
    if dark := counts[DARK]:
        yield (
            f"{_images(dark)} of 16 bits a value, dark: only the lowest quarter of the range is used; "
            "if the files hold 10, 12 or 14 bits a value, scale them to the full range"
        )


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


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
