"""Which 100 of ImageNet's 1000 classes "ImageNet-100" means, and classes that a file lists."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from cil_func.errors import DataError

IMAGENET_CLASSES = 1000
FIRST, SEED = "first-100", "seed-1993"
NAMED = {  # name: SHA-256 of the chosen synsets, sorted, joined by line breaks
    FIRST: "e685f52fed1378fd4f7c3edbc80cf62403ad8fef69c03faef471d8a42c5289df",
    SEED: "fce943fa2f5b5888cc86d3850a8466c0de2d45e7593b3637534ff1e6b73db6f9",
}
_SYNSET = re.compile(r"n\d{8}")


def choose(subset: str, class_names: Sequence[str]) -> list[str]:
    """Returns the classes of a subset, sorted.

    subset: "first-100", the first 100 synsets in sorted order: the lists train_100.txt and val_100.txt of PODNet
    (arXiv:2004.13513, incremental_learning.pytorch/imagenet_split), which continuum downloads and DyTox and others use.
    "seed-1993": those that numpy's legacy generator chooses with seed 1993, as LUCIR's gen_imagenet_subset.py (Hou et
    al. 2019). Anything else is the path of a text file with a class in each line. A line that is no class may begin
    with one, up to a space: the rest is ignored, and so are empty lines and those that begin with "#".
    class_names: of all folders. For the first two there have to be 1000.
    Raises DataError if there aren't, if folders named by synsets aren't ImageNet's 1000, if the file can't be read or
    names a class that has no folder.
    """
    known = sorted(class_names)
    if subset not in NAMED:
        return _listed(subset, known)
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


def _listed(file: str, known: list[str]) -> list[str]:
    """Returns the classes that a text file lists, sorted. known: the classes that have a folder."""
    there = set(known)
    names = sorted({line if line in there else line.split()[0] for line in lines(file)})
    unknown = [name for name in names if name not in known]
    if unknown or len(names) < 2:
        fault = f"class {unknown[0]!r} has no folder" if unknown else f"{len(names)} classes"
        raise DataError(f"data.subset: {file}: {fault}; list two or more of the class folders, one a line")
    return names
