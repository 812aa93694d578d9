"""Folders of image files -> uint8 arrays. What people get wrong in such folders is refused by name."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from cil_func.data.reading import decoding, image_file, listing
from cil_func.data.reading.listing import Files, Listing
from cil_func.errors import DataError, Mistakes

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]
_LOOKED_AT = 200  # files that are read after a mistake, to name those that can't be read in the same message


def read(
    path: str,
    *,
    image_size: int = 0,
    test_names: Sequence[str] = ("test", "val"),
    skip: Callable[[str], None] | None = None,
    rules: image_file.Rules = image_file.UPRIGHT_ON_WHITE,
    warn: Callable[[str], None] = lambda line: None,
    check: Callable[[tuple[str, ...]], None] = lambda class_names: None,
    listed: Callable[[Listing], object] = lambda found: None,
    memory: decoding.ImageMemory = decoding.OWN_MEMORY,
) -> Arrays:
    """Reads `path/train/<class>/**` and `path/test/<class>/**` (the first of `test_names` that has such classes).

    image_size: 0 needs all images of one size; s brings each to s x s, see `images.resize`. skip: is given a
    line like "train/cat/3.png: the file is empty" for each file that can't be read, which is then left out;
    without it such a file raises DataError. rules: see `images.Rules`. warn: is given a line for each thing that a
    person should know and that is no mistake. check: is called with the class names before any image is read, and
    may raise DataError. listed: is given the files before they are read. memory: where the images are put.
    Returns (train images uint8 (N, H, W, 3), train targets int64 (N,), test images, test targets, class
    names); a class index is the position in the alphabetical order of the names, rows are sorted by
    class, then by path. Links are followed, dot-names ignored. Class names are in Unicode's form NFC; bytes in them
    that are no UTF-8 read "\\xff".
    Raises DataError, one line: whatever is missing, empty, unreadable, of two sizes or too large for memory.
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
    arrays = _read_splits(found, image_size, reader, memory)
    for line in [*found.warnings, *_in_words(Counter(what for what, _ in noted), rules)]:
        warn(line)
    for line in found.skipped:
        skip(line)
    return *arrays, class_names


def _read_splits(
    found: Listing, image_size: int, reader: decoding.Read, memory: decoding.ImageMemory
) -> list[np.ndarray]:
    """The images and targets of both splits; without the files that can't be read, where these are skipped."""
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
    lost.refuse()
    return arrays


def _unreadable(found: Listing, split: int = 0, row: int = 0) -> list[str]:
    """What can't be read among some files from a row of a split on, as mistakes; none where such files are skipped."""
    if found.skip:
        return []
    files = [*found.splits[split][row:], *(file for later in found.splits[split + 1 :] for file in later)]
    more = Listing(found.root, skip=False)
    with image_file.quiet():
        for file, _ in files[:_LOOKED_AT]:
            try:
                image_file.read(file)
            except image_file.UnreadableError as error:
                more.note(file, str(error))
    return more.mistakes


def _in_words(counts: Counter, rules: image_file.Rules) -> Iterator[str]:
    """One line for each thing that was reported of some images, with their number."""
    if turned := counts[image_file.TURNED]:
        done = "turned upright" if rules.upright else "left as stored"
        yield f"{_images(turned)} with an orientation in EXIF: {done} (data.exif_orientation)"
    if transparent := counts[image_file.TRANSPARENT]:
        shown = "the colours stored there" if rules.background is None else f"the colour {list(rules.background)}"
        yield f"{_images(transparent)} with transparent parts: these show {shown} (data.background)"
    if dark := counts[image_file.DARK]:
        yield (
            f"{_images(dark)} of 16 bits a value, dark: only the lowest quarter of the range is used; "
            "if the files hold 10, 12 or 14 bits a value, scale them to the full range"
        )


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"


def _lost_classes(files: Files, unread: dict[int, str], class_names: tuple[str, ...]) -> list[str]:
    """A mistake for each class of which no image is left."""
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
