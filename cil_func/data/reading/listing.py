"""Lists the image files of each class in a folder, and what is wrong or odd about the folder.

Mistakes are collected, so that a person gets all of them at once.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cil_func.data.reading import class_folders, image_file, subsets, walking
from cil_func.errors import DataError, printable

Files = list[tuple[str, int]]  # image files and their class indices
_MEANT = {  # what people call the three folders, in lower case
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
}
_KINDS = " ".join(image_file.EXTENSIONS[:9])  # shown as examples


@dataclass
class Listing:
    """The image files in a folder, and what was found besides.

    root: the path of the folder. skip: whether paths that can't be used are left out; if False, they are mistakes.
    class_names: sorted; a class's index is its position here.
    splits: the (file, class index) of the training and of the test images, each sorted by class, then by path.
    mistakes: the reasons why the folder can't be used, one line each. single_class: one line if the folder has a single
    class, too few to learn from nothing; else []. skipped: the paths that were left out, each with the reason.
    unused: {folder: counts by kind} of the files that are no image of a class. warnings: what is odd, one line each.
    """

    root: str
    skip: bool
    class_names: tuple[str, ...] = ()
    splits: tuple[Files, Files] = field(default_factory=lambda: ([], []))
    mistakes: list[str] = field(default_factory=list)
    single_class: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unused: dict[str, Counter] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def note(self, path: str, reason: str) -> None:
        """Records a path that can't be used, with the reason: in `skipped` if `skip` is true, else in `mistakes`."""
        if self.skip:
            self.skipped.append(printable(f"{Path(os.path.relpath(path, self.root)).as_posix()}: {reason}"))
        else:
            advice = 'repair or remove it, or set data.on_error = "skip"'
            self.mistakes.append(f"unreadable image {path}: {reason}; {advice}")


def list_images(
    path: str, *, test_names: Sequence[str], skip: bool, subset: str = "", one_class: bool = False
) -> Listing:
    """Lists the images in `path`/train and in a test folder, without opening them.

    test_names: the names that a test folder may have, the preferred one first. Of those that exist, the first that
    shares a class with train/ is taken, or else the first.
    skip: paths that can't be used are left out and noted in the listing's `skipped`; if False, they are among its
    `mistakes`.
    subset: which of the classes are listed, see `subsets.choose`, and so is one_class; "": all.
    Returns a Listing, which also has the other mistakes of the folder; if it has any, the caller has to raise them.
    Raises DataError if `path` can't be listed, or has no training folder or no test folder, or not the subset.
    """
    listing = Listing(os.path.expanduser(path), skip)
    folders = _split_folders(listing, test_names)
    names = [class_folders.find(folder, listing.mistakes) for folder in folders]
    if subset:
        chosen = set(subsets.choose(subset, [*names[0]], one_class=one_class))
        names = [{name: folder for name, folder in own.items() if name in chosen} for own in names]
    listing.class_names = class_folders.joined_names(folders, names, listing.mistakes)
    inner: dict[str, set[str]] = {}  # as `class_folders.nested_warning` takes it
    for folder, own, files in zip(folders, names, listing.splits, strict=True):
        unused = listing.unused[f"{os.path.basename(folder)}/"] = walking.count_beside_classes(folder)
        for index, name in enumerate(listing.class_names):
            if name in own:
                top = os.path.join(folder, own[name])
                found = _images_of_class(top, unused, listing)
                files += ((file, index) for file in found)
                inner.setdefault(name, {file[len(top) + 1 :].rpartition(os.sep)[0].split(os.sep)[0] for file in found})
    listing.single_class += class_folders.single_class_mistake(folders[0], names, inner)
    listing.warnings += [*walking.unused_warning(listing.unused), *class_folders.nested_warning(folders[0], inner)]
    return listing


def list_tests(path: str, *, test_names: Sequence[str], skip: bool, subset: str = "") -> Listing:
    """Lists the images of the test folder alone: path/train may be missing, or have other classes.

    The arguments are those of `list_images`, and so are the errors; the listing's training images are none. Folders
    without images, and classes of the subset without a folder, are left out.
    """
    listing = Listing(os.path.expanduser(path), skip)
    _check_root(listing.root, test_names)
    tests = [name for name in test_names if os.path.isdir(os.path.join(listing.root, name))]
    named = {name: class_folders.find(os.path.join(listing.root, name), listing.mistakes) for name in tests}
    if not any(named.values()):
        wanted = " or ".join(f"{name}/" for name in test_names)
        raise DataError(f"{listing.root} has no {wanted} folder with class folders in it")
    train = os.path.join(listing.root, "train")
    chosen = next(name for name in tests if named[name])
    if os.path.isdir(train):
        shared = _test_folder(listing, train, tests)
        chosen = shared if named[shared] else chosen
    there = named[chosen]
    names = subsets.chosen_of(subset, [*there]) if subset else sorted(there)
    found = {name: _find(os.path.join(listing.root, chosen, there[name]), listing) for name in names}
    listing.class_names = tuple(name for name in names if found[name])
    if not listing.class_names:
        raise DataError(f"{os.path.join(listing.root, chosen)} has no image of these classes any more")
    listing.splits[1].extend((file, at) for at, name in enumerate(listing.class_names) for file in found[name])
    return listing


def _find(folder: str, listing: Listing) -> list[str]:
    return list(walking.find_images(folder, listing.note, Counter()))


def stamp(listing: Listing) -> str:
    """Returns a SHA-256 of the image files' names, their class indices, sizes and times of last change.

    If two stamps are equal, nobody has touched the files. If they differ, the images may still be the same.
    """
    found = hashlib.sha256()
    for entry in (entry for split in listing.splits for entry in split):
        found.update(_identity(listing.root, *entry))
    return found.hexdigest()


def block_stamps(listing: Listing, files: int) -> list[str]:
    """Returns the stamp, as `stamp` makes it, of each `files` consecutive image files, the training files first."""
    entries = [*listing.splits[0], *listing.splits[1]]
    blocks = (entries[start : start + files] for start in range(0, len(entries), files))
    return [
        hashlib.sha256(b"".join(_identity(listing.root, *entry) for entry in block)).hexdigest() for block in blocks
    ]


def _identity(root: str, file: str, index: int) -> bytes:
    """Returns an image file's name in `root`, class index, size and time of last change; b"" if it isn't there."""
    try:
        status = os.stat(file)
    except OSError:  # a link to nowhere, which is skipped
        return b""
    return os.fsencode(f"{file[len(root) :].lstrip(os.sep)}\0{index} {status.st_size} {status.st_mtime_ns}\0")


def text_of(name: str) -> str:
    """Returns a file name as text that JSON can hold: bytes that are not UTF-8 become text like "\\xff"."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _split_folders(listing: Listing, test_names: Sequence[str]) -> tuple[str, str]:
    """Returns the paths of the training and the test folder. Raises DataError if one is missing.

    listing: its `root` is searched; gets warnings and mistakes about the test folder. test_names: see `list_images`.
    """
    root = listing.root
    _check_root(root, test_names)
    entries = walking.visible_names(root)
    folders = [name for name in entries if os.path.isdir(os.path.join(root, name))]
    tests = [name for name in test_names if name in folders]
    wanted = " or ".join(f"{name}/" for name in test_names)
    lacking = [text for text, there in (("train/", "train" in folders), (wanted, bool(tests))) if not there]
    if lacking:
        shown = ", ".join(folders[:5]) or "no folders"
        advice = _advice(root, folders, lacking[0])
        raise DataError(f"{root} has no {' folder and no '.join(lacking)} folder (it holds {shown}); {advice}")
    train = os.path.join(root, "train")
    loose = [name for name in entries if name not in folders and image_file.is_image(name)]
    listing.unused[f"{root} itself"] = Counter(map(walking.kind_outside_classes, loose))
    return train, os.path.join(root, _test_folder(listing, train, tests))


def _check_root(root: str, test_names: Sequence[str]) -> None:
    """Raises DataError unless a data set's root is a folder. test_names: see `list_images`."""
    if not root:
        raise DataError("data.path is empty; set it to a folder that holds train/ and test/ (or val/)")
    if not os.path.isdir(root):
        why = _why_no_folder(root)
        raise DataError(f"data.path {root} {why}; give a folder that holds train/ and {test_names[0]}/")


def _advice(root: str, folders: list[str], lacking: str) -> str:
    """Returns what to do about a root without train/ or a test folder.

    folders: the names in the root. lacking: "train/", or the test folder's names, such as "test/ or val/".
    """
    for name in folders:
        if os.path.isdir(os.path.join(root, name, "train")):
            return f"set data.path to {os.path.join(root, name)}"
        meant = _MEANT.get(name.lower())
        if meant and f"{meant}/" in lacking:
            return f"rename {name} to {meant}"
    return "put the classes' folders in train/" if lacking == "train/" else "put the test images there, by class"


def _test_folder(listing: Listing, train: str, tests: list[str]) -> str:
    """Returns the first of the names `tests` whose folder shares a class with train/; the first name if none does.

    train: the path of the training folder. tests: the names of the test folders that exist, the preferred one first.
    Adds to the listing a warning for each of the others, and a mistake if the chosen one has no class folders.
    """
    classes = set(class_folders.find(train, []))
    labelled = {name: set(class_folders.find(os.path.join(listing.root, name), [])) for name in tests}
    chosen = next((name for name in tests if labelled[name] & classes), tests[0])
    for name in tests:
        if name != chosen:
            why = "it is the first that is looked for" if tests[0] == chosen else f"{name}/ has none of train's classes"
            listing.warnings.append(f"{chosen}/ is the test set, {name}/ is not used: {why}")
    if not labelled[chosen] and classes:
        count = len(walking.visible_names(os.path.join(listing.root, chosen)))
        listing.mistakes.append(
            f"{os.path.join(listing.root, chosen)} holds {count} files and no class folders; images without labels "
            "can't be tested on: put them in the classes' folders, or rename it and call a labelled folder test/"
        )
    return chosen


def _why_no_folder(path: str) -> str:
    try:
        os.stat(path)
    except FileNotFoundError:
        return "doesn't exist"
    except OSError as error:
        return f"can't be opened ({error.strerror})"
    except ValueError:  # the file system can't have a file of this name
        return "doesn't exist"
    return "is a file"


def _images_of_class(folder: str, unused: Counter, listing: Listing) -> list[str]:
    """Returns the image files of one class, sorted by path.

    folder: of the class. unused: its files that are no images are added here, by kind.
    listing: gets the paths that can't be used, and a mistake if there are no images.
    """
    others: Counter = Counter()
    found, before = list(walking.find_images(folder, listing.note, others)), len(listing.mistakes)
    if not found and len(listing.mistakes) == before:
        held = f"; it holds {walking.counts_text(others)}" if others else ""
        listing.mistakes.append(f"class folder {folder} holds no images ({_KINDS} ...){held}; add some or remove it")
    unused += others
    return found
