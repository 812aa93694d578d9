"""A folder of class folders -> the image files of each class, and what is wrong or odd about the folder.

Mistakes are collected, so that a person gets them all at once.
"""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cil_func.data.reading import image_file, walking
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
    """What a folder holds.

    splits: the training and the test images, sorted by class, then by path. mistakes: reasons why the folder can't be
    used. skipped: paths that can't be used and were left out, with the reason. unused: files that count as no image
    of a class, by folder and kind. warnings: one line each.
    """

    root: str
    skip: bool
    class_names: tuple[str, ...] = ()
    splits: tuple[Files, Files] = field(default_factory=lambda: ([], []))
    mistakes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unused: dict[str, Counter] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def note(self, path: str, reason: str) -> None:
        """Records a path that can't be used: in `skipped` if such paths are left out, else in `mistakes`."""
        if self.skip:
            self.skipped.append(printable(f"{Path(os.path.relpath(path, self.root)).as_posix()}: {reason}"))
        else:
            advice = 'repair or remove it, or set data.on_error = "skip"'
            self.mistakes.append(f"unreadable image {path}: {reason}; {advice}")


def list_images(path: str, *, test_names: Sequence[str], skip: bool) -> Listing:
    """Lists the images in `path`/train and in the first of `test_names` that holds class folders.

    skip: whether paths that can't be used are left out. Returns a Listing, whose mistakes the caller raises.
    Raises DataError if the folder can't be listed, or has no train folder or no test folder.
    """
    listing = Listing(os.path.expanduser(path), skip)
    folders = _split_folders(listing, test_names)
    names = [_class_folders(folder, listing.mistakes) for folder in folders]
    listing.class_names = _class_names(folders, names, listing.mistakes)
    inner: dict[str, set[str]] = {}  # of each class, the folders that hold its training images; "": its own
    for folder, own, files in zip(folders, names, listing.splits, strict=True):
        unused = listing.unused[f"{os.path.basename(folder)}/"] = walking.count_beside_classes(folder)
        for index, name in enumerate(listing.class_names):
            if name in own:
                top = os.path.join(folder, own[name])
                found = _of_class(top, unused, listing)
                files += ((file, index) for file in found)
                inner.setdefault(name, {file[len(top) + 1 :].rpartition(os.sep)[0].split(os.sep)[0] for file in found})
    listing.mistakes += _single_class(folders[0], names, inner)
    listing.warnings += [*walking.unused_warning(listing.unused), *_nested(folders[0], inner)]
    return listing


def stamp(listing: Listing) -> str:
    """SHA-256 of the images' names below the root, their sizes in bytes and the times of their last change.

    Where it is the same nobody has touched the files; where it differs the images may still be the same.
    """
    found = hashlib.sha256()
    for file, index in (entry for split in listing.splits for entry in split):
        try:
            status = os.stat(file)
        except OSError:  # a link to nowhere, which is skipped
            continue
        name = file[len(listing.root) :].lstrip(os.sep)
        found.update(os.fsencode(f"{name}\0{index} {status.st_size} {status.st_mtime_ns}\0"))
    return found.hexdigest()


def text_of(name: str) -> str:
    """A name as text that JSON can hold: bytes that are no UTF-8 read "\\xff"."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def class_folders(folder: str) -> list[str]:
    """The names of the class folders (or links to such), sorted, without dot-names.

    Raises DataError if they can't be listed, or if one is a link that leads nowhere: a class would be missing.
    """
    mistakes: list[str] = []
    names = _class_folders(folder, mistakes)
    if mistakes:
        raise DataError(*mistakes)
    return sorted(names.values())


def _class_folders(folder: str, mistakes: list[str]) -> dict[str, str]:
    """{name in Unicode's form NFC: name on disk}: macOS and Linux write one name in two forms."""
    found: dict[str, str] = {}
    for name in walking.visible_names(folder):
        path, normal = os.path.join(folder, name), unicodedata.normalize("NFC", name)
        if os.path.islink(path) and not os.path.exists(path):
            mistakes.append(f"{path} is a link that leads nowhere; repair or remove it")
        elif os.path.isdir(path):
            if normal in found:
                mistakes.append(f"{folder} has two folders called {normal!r}, in two Unicode forms; join them")
            found[normal] = name
    return found


def _split_folders(listing: Listing, test_names: Sequence[str]) -> tuple[str, str]:
    """The folders of training and of test images."""
    root = listing.root
    if not root:
        raise DataError("data.path is empty; set it to a folder that holds train/ and test/ (or val/)")
    if not os.path.isdir(root):
        why = _why_no_folder(root)
        raise DataError(f"data.path {root} {why}; give a folder that holds train/ and {test_names[0]}/")
    entries = walking.visible_names(root)
    held = [name for name in entries if os.path.isdir(os.path.join(root, name))]
    tests = [name for name in test_names if name in held]
    wanted = " or ".join(f"{name}/" for name in test_names)
    lacking = [text for text, there in (("train/", "train" in held), (wanted, bool(tests))) if not there]
    if lacking:
        shown = ", ".join(held[:5]) or "no folders"
        way_out = _way_out(root, held, lacking[0])
        raise DataError(f"{root} has no {' folder and no '.join(lacking)} folder (it holds {shown}); {way_out}")
    train = os.path.join(root, "train")
    loose = [name for name in entries if name not in held and image_file.is_image(name)]
    listing.unused[f"{root} itself"] = Counter(map(walking.kind_outside_classes, loose))
    return train, os.path.join(root, _test_folder(listing, train, tests))


def _way_out(root: str, held: list[str], lacking: str) -> str:
    """What to do about a folder that lacks train/ ("train/") or a test folder."""
    for name in held:
        if os.path.isdir(os.path.join(root, name, "train")):
            return f"set data.path to {os.path.join(root, name)}"
        meant = _MEANT.get(name.lower())
        if meant and f"{meant}/" in lacking:
            return f"rename {name} to {meant}"
    return "put the classes' folders in train/" if lacking == "train/" else "put the test images there, by class"


def _test_folder(listing: Listing, train: str, tests: list[str]) -> str:
    """The first test folder that has a class of the training folder; the first one if none has."""
    classes = set(_class_folders(train, []))
    labelled = {name: set(_class_folders(os.path.join(listing.root, name), [])) for name in tests}
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
    except ValueError:  # a name that this file system has no bytes for
        return "doesn't exist"
    return "is a file"


def _class_names(
    folders: tuple[str, str], names: Sequence[dict[str, str]], mistakes: list[str]
) -> tuple[str, ...]:
    """The classes of both folders, sorted; it is a mistake if they differ, or if there are none."""
    if not names[0]:
        mistakes.append(f"{folders[0]} has no class folders; put the images of each class in a folder there")
    for here, there in ((0, 1), (1, 0)):
        alone = sorted(set(names[here]) - set(names[there]))
        if alone and names[there]:
            alike = {_folded(name): name for name in names[there]}.get(_folded(alone[0]))
            more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
            hint = f"call both alike, it is {alike!r} there" if alike else "give it both"
            place = f"is in {folders[here]} but not in {folders[there]}"
            mistakes.append(f"class {alone[0]!r}{more} {place}; {hint}")
    return tuple(sorted(set(names[0]) | set(names[1])))


def _single_class(train: str, names: Sequence[dict[str, str]], inner: dict[str, set[str]]) -> list[str]:
    """A mistake if both folders have the same class and no other; its inner folders may be the classes."""
    if len(names[0]) != 1 or not set(names[1]) <= set(names[0]):
        return []
    (name,) = names[0]
    found = inner.get(name, set())
    if len(found) > 1 and "" not in found:
        return [
            f"{train} has a single class, {name!r}, and its images lie in folders inside it ({_some(found)}); "
            "if these are the classes, move them up, for train and test"
        ]
    return [f"{train} has a single class, {name!r}; give two or more"]


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (" ..." if len(names) > 3 else "")


def _folded(name: str) -> str:
    """A name without what the eye doesn't see at once: case, spaces around it, the form of its letters."""
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _of_class(folder: str, unused: Counter, listing: Listing) -> list[str]:
    """The images of one class, sorted by path; it is a mistake if there are none."""
    others: Counter = Counter()
    found, before = list(walking.find_images(folder, listing.note, others)), len(listing.mistakes)
    if not found and len(listing.mistakes) == before:
        held = f"; it holds {walking.counts_text(others)}" if others else ""
        listing.mistakes.append(f"class folder {folder} holds no images ({_KINDS} ...){held}; add some or remove it")
    unused += others
    return found


def _nested(train: str, inner: dict[str, set[str]]) -> Iterator[str]:
    """A warning about classes whose images all lie in folders of the class folder: those may be the classes.

    inner: for each class the folders below it, "" for the class folder itself. One folder that has the same name in all
    classes, as Tiny ImageNet's images/, is taken for what it is.
    """
    deep = {name: found for name, found in inner.items() if found and "" not in found}
    if deep and not (len(deep) == len(inner) and len(set().union(*deep.values())) == 1):
        name, found = next(iter(deep.items()))
        more = f", and so are {len(deep) - 1} more classes" if len(deep) > 1 else ""
        inside = f"holds images only in folders inside it ({_some(found)})"
        yield f"{train}/{name} {inside}; all are one class, {name!r}{more}"
