"""Finds the class folders of a training and a test folder, and the mistakes that people make in them."""

import os
import unicodedata
from collections.abc import Iterator, Sequence

from cil_func.data.reading import walking
from cil_func.errors import DataError

Names = dict[str, str]  # {class name: name of its folder on disk}


def class_folders(folder: str) -> list[str]:
    """Returns the names of the class folders in a folder, sorted. Links to folders count, names with a dot don't.

    Raises DataError if the folder can't be listed, or if one of the names is a link that leads nowhere.
    """
    mistakes: list[str] = []
    names = find(folder, mistakes)
    if mistakes:
        raise DataError(*mistakes)
    return sorted(names.values())


def find(folder: str, mistakes: list[str]) -> Names:
    """Returns {class name: name on disk} of the class folders in a folder.

    mistakes: a list to which one line is added for each thing that is wrong with the folders.
    Class names are in Unicode's form NFC, since macOS and Linux write the same name in two forms.
    Raises DataError if the folder can't be listed.
    """
    found: Names = {}
    for name in walking.visible_names(folder):
        path, normal = os.path.join(folder, name), unicodedata.normalize("NFC", name)
        if os.path.islink(path) and not os.path.exists(path):
            mistakes.append(f"{path} is a link that leads nowhere; repair or remove it")
        elif os.path.isdir(path):
            if normal in found:
                mistakes.append(f"{folder} has two folders called {normal!r}, in two Unicode forms; join them")
            found[normal] = name
    return found


def joined_names(folders: tuple[str, str], names: Sequence[Names], mistakes: list[str]) -> tuple[str, ...]:
    """Returns the class names of the training and the test folder together, sorted.

    folders: the paths of the two folders. names: for each of them what `find` has returned.
    mistakes: a list to which a line is added if there are no classes, or if only one of the folders has a class.
    """
    if not names[0]:
        mistakes.append(f"{folders[0]} has no class folders; put the images of each class in a folder there")
    for here, there in ((0, 1), (1, 0)):
        alone = sorted(set(names[here]) - set(names[there]))
        if alone and names[there]:
            alike = {simplified(name): name for name in names[there]}.get(simplified(alone[0]))
            more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
            hint = f"call both alike, it is {alike!r} there" if alike else "give it both"
            place = f"is in {folders[here]} but not in {folders[there]}"
            mistakes.append(f"class {alone[0]!r}{more} {place}; {hint}")
    return tuple(sorted(set(names[0]) | set(names[1])))


def single_class_mistake(train: str, names: Sequence[Names], inner: dict[str, set[str]]) -> list[str]:
    """Returns one mistake if the training and the test folder have a single class, the same one; else [].

    train: the path of the training folder. names: for both folders what `find` has returned. inner: see
    `nested_warning`. If the images lie in several folders inside the class folder, the mistake says that these may be
    the classes.
    """
    if len(names[0]) != 1 or not set(names[1]) <= set(names[0]):
        return []
    (name,) = names[0]
    found = inner.get(name, set())
    if len(found) > 1 and "" not in found:
        return [
            f"{train} has a single class, {name!r}, and its images lie in folders inside it ({_first_three(found)}); "
            "if these are the classes, move them up, for train and test"
        ]
    return [f"{train} has a single class, {name!r}; give two or more"]


def nested_warning(train: str, inner: dict[str, set[str]]) -> Iterator[str]:
    """Yields one warning if all images of a class lie in folders inside its class folder: these may be the classes.

    train: the path of the training folder.
    inner: {class name: names of the folders inside its class folder that hold images; "" for the class folder itself}.
    There is no warning if every class has one such folder, of the same name, as Tiny ImageNet has its images/.
    """
    deep = {name: found for name, found in inner.items() if found and "" not in found}
    if deep and not (len(deep) == len(inner) and len(set().union(*deep.values())) == 1):
        name, found = next(iter(deep.items()))
        more = f", and so are {len(deep) - 1} more classes" if len(deep) > 1 else ""
        inside = f"holds images only in folders inside it ({_first_three(found)})"
        yield f"{train}/{name} {inside}; all are one class, {name!r}{more}"


def _first_three(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (" ..." if len(names) > 3 else "")


def simplified(name: str) -> str:
    """Returns a name without differences that a person overlooks: upper case, outer spaces, forms of a letter."""
    return unicodedata.normalize("NFKC", name).casefold().strip()
