"""Folders of image files -> uint8 arrays. What people get wrong in such folders is refused by name."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from cil_func.data import decoding, images
from cil_func.errors import DataError, printable

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]
Files = list[tuple[str, int]]  # image files and their class indices
Note = Callable[[str, str], None]  # takes a path that can't be used, and the reason


def read(
    path: str,
    *,
    image_size: int = 0,
    test_names: Sequence[str] = ("test", "val"),
    skip: Callable[[str], None] | None = None,
) -> Arrays:
    """Reads `path/train/<class>/**` and `path/test/<class>/**` (the first of `test_names` that exists).

    image_size: 0 needs all images of one size; s brings each to s x s, see `images.resize`. skip: is given a
    line like "train/cat/3.png: the file is empty" for each file that can't be read, which is then left out;
    without it the first such file raises DataError.
    Returns (train images uint8 (N, H, W, 3), train targets int64 (N,), test images, test targets, class
    names); a class index is the position in the alphabetical order of the names, rows are sorted by
    class, then by path. Links are followed. Dot-names and files that are no images by extension are ignored,
    as by torchvision's ImageFolder. Bytes of a class's name that are no UTF-8 read "\\xff" in class names.
    Raises DataError, one line: whatever is missing, empty, unreadable, of two sizes or too large for memory.
    """
    root = os.path.expanduser(path)
    folders = _split_folders(root, test_names)
    class_names, note = _class_names(folders), _noter(root, skip)
    splits = [_list_images(folder, class_names, note) for folder in folders]
    try:
        decoded = decoding.read_all([[file for file, _ in split] for split in splits], image_size, stop=skip is None)
    except MemoryError:
        raise DataError("the images need more memory than there is; set a smaller data.image_size") from None
    arrays = []
    for split, (array, unread) in zip(splits, decoded, strict=True):
        for row, reason in unread.items():
            note(split[row][0], reason)
        _check_left(split, unread, class_names)
        targets = [target for row, (_, target) in enumerate(split) if row not in unread]
        arrays += [decoding.without(array, unread), np.array(targets, dtype=np.int64)]
    return *arrays, tuple(os.fsencode(name).decode("utf-8", "backslashreplace") for name in class_names)


def class_folders(folder: str) -> list[str]:
    """Names of the class folders (or links to such), sorted, without dot-names.

    Raises DataError if they can't be listed, or if one is a link that leads nowhere: a class would be missing.
    """
    for name in (names := _listed(folder)):
        link = os.path.join(folder, name)
        if os.path.islink(link) and not os.path.exists(link):
            raise DataError(f"{link} is a link that leads nowhere; mend or remove it")
    return [name for name in names if os.path.isdir(os.path.join(folder, name))]


def _listed(folder: str) -> list[str]:
    """What a folder holds, sorted, without dot-names."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} can't be listed ({error.strerror}); make it a folder that you may read") from error


def _split_folders(root: str, test_names: Sequence[str]) -> tuple[str, str]:
    """The folders of training and of test images."""
    if not root:
        raise DataError("data.path is empty; set it to a folder that holds train/ and test/ (or val/)")
    if not os.path.isdir(root):
        why = _why_no_folder(root)
        raise DataError(f"data.path {root} {why}; give a folder that holds train/ and {test_names[0]}/")
    held = [name for name in _listed(root) if os.path.isdir(os.path.join(root, name))]
    shown = ", ".join(held[:5]) or "no folders"
    if "train" not in held:
        raise DataError(f"{root} has no train/ folder (it holds {shown}); put the classes' folders in train/")
    for name in test_names:
        if name in held:
            return os.path.join(root, "train"), os.path.join(root, name)
    wanted = " or ".join(f"{name}/" for name in test_names)
    raise DataError(f"{root} has no {wanted} folder (it holds {shown}); put the test images there, by class")


def _why_no_folder(path: str) -> str:
    try:
        os.stat(path)
    except FileNotFoundError:
        return "doesn't exist"
    except OSError as error:
        return f"can't be opened ({error.strerror})"
    except ValueError:  # a name that this file system has no bytes for
        return "doesn't exist"
    return "is a file"


def _class_names(folders: tuple[str, str]) -> tuple[str, ...]:
    """The class folders' names, which have to be the same in both folders, and at least two."""
    train_names, test_names = (class_folders(folder) for folder in folders)
    if not train_names:
        raise DataError(f"{folders[0]} has no class folders; put the images of each class in a folder there")
    for here, there in ((0, 1), (1, 0)):
        alone = sorted(set((train_names, test_names)[here]) - set((train_names, test_names)[there]))
        if alone:
            more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
            raise DataError(f"class {alone[0]!r}{more} is in {folders[here]} but not in {folders[there]}; give it both")
    if len(train_names) == 1:
        raise DataError(f"{folders[0]} has a single class, {train_names[0]!r}; give two or more")
    return tuple(train_names)


def _noter(root: str, skip: Callable[[str], None] | None) -> Note:
    """What to do about a path that can't be used: raise, or hand it to `skip` as it is called below root."""

    def note(path: str, reason: str) -> None:
        if skip is None:
            raise DataError(f'unreadable image {path}: {reason}; mend or remove it, or set data.on_error = "skip"')
        skip(printable(f"{Path(os.path.relpath(path, root)).as_posix()}: {reason}"))

    return note


def _list_images(folder: str, class_names: tuple[str, ...], note: Note) -> Files:
    """The images of each class, sorted by class and path; no class may be empty."""
    files: Files = []
    for index, name in enumerate(class_names):
        own = [(file, index) for file in _walk(os.path.join(folder, name), note)]
        if not own:
            kinds = " ".join(images.EXTENSIONS)
            empty = os.path.join(folder, name)
            raise DataError(f"class folder {empty} holds no images ({kinds}); add some or remove it")
        files += own
    return files


def _walk(top: str, note: Note) -> Iterator[str]:
    """Image files in a folder and all below it, sorted by folder, then by name, as torchvision has them."""
    found = []
    for folder, inner, names in os.walk(top, followlinks=True, onerror=lambda e: note(e.filename, e.strerror)):
        visible = sorted(name for name in inner if not name.startswith("."))
        inner[:] = [name for name in visible if _can_enter(os.path.join(folder, name), note)]
        found.append((folder, sorted(n for n in names if images.is_image(n) and not n.startswith("."))))
    for folder, names in sorted(found):
        yield from (os.path.join(folder, name) for name in names)


def _can_enter(folder: str, note: Note) -> bool:
    """Whether a folder is to be searched; one that is called like an image, or leads back, is noted."""
    if images.is_image(folder):
        note(folder, "it is a folder, not a file")
        return False
    if os.path.islink(folder):
        real, here = os.path.realpath(folder), os.path.realpath(os.path.dirname(folder))
        if os.path.commonpath([real, here]) == real:  # os.walk would go round 40 times and find each image as often
            note(folder, "it is a link to a folder that holds it")
            return False
    return True


def _check_left(files: Files, unread: dict[int, str], class_names: tuple[str, ...]) -> None:
    """Raises DataError for a class of which no image is left."""
    left = {target for row, (_, target) in enumerate(files) if row not in unread}
    for row, reason in unread.items():
        file, target = files[row]
        if target not in left:
            raise DataError(
                f"class {class_names[target]!r} has no image that can be read ({file}: {reason}); "
                "mend them or remove the class"
            )
