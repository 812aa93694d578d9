"""Lists the images of CUB-200-2011 as it is distributed: one folder of images, and text files that split them."""

import os
from collections.abc import Sequence

from cil_func.data.reading import listing
from cil_func.data.reading.listing import Listing
from cil_func.errors import DataError

_FOLDER = "CUB_200_2011"


def list_images(path: str, *, test_names: Sequence[str], skip: bool) -> Listing:
    """Lists the images of CUB-200-2011 without opening them.

    path: the folder CUB_200_2011 (with images.txt, image_class_labels.txt, train_test_split.txt and images/) or the one
    that holds it; or a folder with train/ and test/, which is then listed by `listing.list_images`, as the other
    arguments say.
    Raises DataError if neither is there or if a text file is damaged.
    Source: Wah et al. 2011, "The Caltech-UCSD Birds-200-2011 Dataset".
    """
    root = os.path.expanduser(path)
    inside = os.path.join(root, _FOLDER)
    root = inside if os.path.isdir(inside) else root
    if not os.path.exists(os.path.join(root, "images.txt")):
        return listing.list_images(path, test_names=test_names, skip=skip)
    files, labels, trains = (_numbered(root, name) for name in ("images", "image_class_labels", "train_test_split"))
    if not files.keys() == labels.keys() == trains.keys():
        raise DataError(f"{root}: its text files are about different images; unpack the archive again")
    found = Listing(root, skip, class_names=tuple(sorted({file.partition("/")[0] for file in files.values()})))
    index = {name: position for position, name in enumerate(found.class_names)}
    for number, file in sorted(files.items(), key=lambda item: item[1]):
        place = os.path.join(root, "images", *file.split("/"))
        found.splits[trains[number] != "1"].append((place, index[file.partition("/")[0]]))
    return found


def _numbered(root: str, name: str) -> dict[str, str]:
    """Returns {image number: what stands behind it} of a text file. Raises DataError if it can't be read."""
    file = os.path.join(root, f"{name}.txt")
    try:
        with open(file, encoding="utf-8") as stream:
            return dict(line.split(maxsplit=1) for line in map(str.strip, stream) if line)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} can't be used ({error}); unpack the archive again") from error
