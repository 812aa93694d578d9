"""Which 100 of ImageNet's 1000 classes "ImageNet-100" means, and classes that a file lists."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from cil_func.data.reading import class_folders
from cil_func.errors import DataError

IMAGENET_CLASSES = 1000
FIRST, SEED = "first-100", "seed-1993"
NAMED = {  # name: SHA-256 of the chosen synsets, sorted, joined by line breaks
    FIRST: "e685f52fed1378fd4f7c3edbc80cf62403ad8fef69c03faef471d8a42c5289df",
    SEED: "fce943fa2f5b5888cc86d3850a8466c0de2d45e7593b3637534ff1e6b73db6f9",
}
_SYNSET = re.compile(r"n\d{8}")


def choose(subset: str, class_names: Sequence[str], *, one_class: bool = False) -> list[str]:
    """Returns the classes of a subset, sorted.

    subset: "first-100", the first 100 synsets in sorted order: the lists train_100.txt and val_100.txt of PODNet
    (arXiv:2004.13513, incremental_learning.pytorch/imagenet_split), which continuum downloads and DyTox and others use.
    "seed-1993": those that numpy's legacy generator chooses with seed 1993, as LUCIR's gen_imagenet_subset.py (Hou et
    al. 2019). Anything else is the path of a text file with a class in each line. A line that is no class may begin
    with one, up to a space: the rest is ignored, and so are empty lines and those that begin with "#".
    class_names: of all folders. For the first two there have to be 1000. one_class: whether one is enough.
    Raises DataError if there aren't, if folders named by synsets aren't ImageNet's 1000, if the file can't be read or
    names a class that has no folder.
    """
    known = sorted(class_names)
    if subset not in NAMED:
        return _listed(subset, known, least=1 if one_class else 2)
    if len(known) != IMAGENET_CLASSES:
        raise DataError(
            f"data.subset: {subset!r} is chosen among ImageNet's 1000 classes, and there are {len(known)} class "
            'folders; give data.path the whole ImageNet, or set data.subset = ""'
        )
    order = np.random.RandomState(1993).permutation(IMAGENET_CLASSES) if subset == SEED else range(IMAGENET_CLASSES)
    chosen = sorted(known[index] for index in order[:100])
    found = hashlib.sha256("\n".join(chosen).encode()).hexdigest()
    if all(map(_SYNSET.fullmatch, known)) and found != NAMED[subset]:
        raise DataError(f"data.subset: {subset!r} is of ImageNet's folders, not of these; name the classes in a file")
    return chosen


def chosen_of(subset: str, class_names: Sequence[str]) -> list[str]:
    """Returns the classes of a subset that are among `class_names`, sorted, though others of it may be missing.

    subset: as for `choose`, whose errors this raises too where a file can't be read or the classes aren't ImageNet's.
    """
    if subset in NAMED:
        return choose(subset, class_names)
    there = set(class_names)
    return sorted({name for line in lines(subset) for name in (line, line.split()[0]) if name in there})


def lines(file: str) -> list[str]:
    """Returns the lines of a text file that name classes, in Unicode's form NFC, as the names of class folders are.

    Raises DataError if the file can't be read.
    """
    try:
        with open(os.path.expanduser(file), encoding="utf-8-sig") as stream:
            found = [unicodedata.normalize("NFC", line.strip()) for line in stream]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise DataError(f"data.subset: {file} can't be read ({reason}); {FIRST!r}, {SEED!r} or a text file") from error
    return [line for line in found if line and not line.startswith("#")]


def _listed(file: str, known: list[str], *, least: int) -> list[str]:
    """Returns the classes that a text file lists, sorted. known: those that have a folder. least: so many."""
    there = set(known)
    names = sorted({line if line in there else line.split()[0] for line in lines(file)})
    unknown = [name for name in names if name not in known]
    if unknown or len(names) < least:
        fault = f"class {unknown[0]!r} has no folder" if unknown else f"{len(names)} classes"
        raise DataError(f"data.subset: {file}: {fault}; list {least} or more of the class folders, one a line")
    return names


def refuse_count(path: str, name: str, subset: str, wanted: int) -> None:
    """Raises DataError unless path/train has as many classes as an ImageNet set, by itself or chosen by `subset`.

    name: of the set, which has `wanted` classes. Called before the images are read, so that a wrong folder is not
    decoded for an hour. A folder that is missing is reported later.
    """
    train = os.path.join(os.path.expanduser(path), "train")
    if path and os.path.isdir(train):
        there = class_folders.class_folders(train)
        found = len(choose(subset, there) if subset else there)
        if found != wanted:
            way = 'link those you mean into a folder of their own, or set data.name = "image_folder"'
            if found == IMAGENET_CLASSES:
                way = f'set data.subset to "{FIRST}" (PODNet, DyTox), "{SEED}" (LUCIR) or a file'
            raise DataError(f"{train} has {found} class folders, {name} has {wanted}; {way}")
