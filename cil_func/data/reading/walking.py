"""Searches folders for images and counts what else they hold."""

import os
from collections import Counter
from collections.abc import Callable, Iterator

from cil_func.data.reading import image_file
from cil_func.errors import DataError

_LEFT_BY_SYSTEMS = ("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r")  # files of operating systems, in lower case


def visible_names(folder: str) -> list[str]:
    """Returns the names in a folder, sorted, without those that begin with a dot.

    Raises DataError if the folder can't be listed.
    """
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} can't be listed ({error.strerror}); make it a folder that you may read") from error


def find_images(top: str, note: Callable[[str, str], None], others: Counter) -> Iterator[str]:
    """Yields the image files in the folder `top` and all below it, sorted by folder, then by name, as torchvision does.

    note: called with (path, reason) for a path that can't be used. others: a counter to which the files that are no
    images are added, by their extension. Links to folders are followed; names that begin with a dot are ignored.
    """
    found = []
    unlisted = lambda error: note(error.filename, error.strerror or str(error))  # noqa: E731
    for folder, inner, names in os.walk(top, followlinks=True, onerror=unlisted):
        visible = sorted(name for name in inner if not name.startswith("."))
        inner[:] = [name for name in visible if _can_enter(os.path.join(folder, name), top, note)]
        shown = [name for name in names if _is_meant(name)]
        found.append((folder, sorted(name for name in shown if image_file.is_image(name))))
        others.update(_extension(name) for name in shown if not image_file.is_image(name))
    for folder, names in sorted(found):
        yield from (os.path.join(folder, name) for name in names)


def _can_enter(folder: str, top: str, note: Callable[[str, str], None]) -> bool:
    """Returns whether to search a folder: it is not named like an image and doesn't lead back to itself.

    top: the folder whose search has led to it. note: called with (folder, reason) if it isn't to be searched.
    """
    if image_file.is_image(folder):
        note(folder, "it is a folder, not a file")
        return False
    if os.path.islink(folder):
        real, here = os.path.realpath(folder), os.path.realpath(os.path.dirname(folder))
        inside = os.path.relpath(os.path.dirname(folder), top).split(os.sep)
        above = {os.path.realpath(os.path.join(top, *inside[:depth])) for depth in range(len(inside) + 1)}  # by links
        if os.path.commonpath([real, here]) == real or real in above:  # os.walk would go round 40 times
            note(folder, "it is a link to a folder that holds it")
            return False
    return True


def _is_meant(name: str) -> bool:
    """Returns whether a person put a file of this name there, and not an operating system."""
    return not name.startswith(".") and name.lower() not in _LEFT_BY_SYSTEMS


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without an extension"


def kind_outside_classes(name: str) -> str:
    """Returns the kind under which a file that lies beside the class folders is counted, from the file's name.

    "outside of the class folders" for an image; for any other file its extension in lower case (".txt"), or "without an
    extension".
    """
    return "outside of the class folders" if image_file.is_image(name) else _extension(name)


def count_beside_classes(folder: str) -> Counter:
    """Returns counts of the files that lie directly in a folder of class folders, by `kind_outside_classes`."""
    names = (name for name in visible_names(folder) if _is_meant(name))
    return Counter(kind_outside_classes(name) for name in names if not os.path.isdir(os.path.join(folder, name)))


def counts_text(kinds: Counter, most: int = 5) -> str:
    """Returns the `most` largest counts as text: "40 .heic, 3 .txt and 2 more kinds". kinds: {kind: count}."""
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{count} {kind}" for kind, count in ordered[:most])
    return shown + (f" and {len(kinds) - most} more kinds" if len(kinds) > most else "")


def unused_warning(unused: dict[str, Counter]) -> Iterator[str]:
    """Yields one warning about all files that are not used, if any: "40 files in train/ were not used: 40 .heic".

    unused: {folder, as the warning calls it: counts by kind}.
    """
    texts = [
        f"{count} {'files' if count > 1 else 'file'} in {place} {'were' if count > 1 else 'was'} not used: "
        + counts_text(kinds)
        for place, kinds in unused.items()
        if (count := kinds.total())
    ]
    if texts:
        yield "; ".join(texts)
