"""Lists the images of CORe50 as it is distributed: a folder for each session, with a folder for each object in it.

continuum's reader isn't used. It needs a table of training images that the archive lacks, from the network. It takes
files in the order in which the disk has them, and fails with a traceback where a folder is missing.
"""

import os
from collections import Counter
from collections.abc import Sequence

from cil_func.data.reading import listing, walking
from cil_func.data.reading.listing import Listing
from cil_func.errors import DataError

OBJECTS, SESSIONS, TEST_SESSIONS = 50, range(1, 12), (3, 7, 10)
_FOLDERS = ("core50_128x128", "core50_350x350")  # into which the two archives unpack


def list_images(path: str, *, test_names: Sequence[str], skip: bool) -> Listing:
    """Lists the images of CORe50 without opening them. The classes are its 50 objects, o1 to o50, in this order.

    The images of sessions 3, 7 and 10 are for tests, those of the other eight for training, as its authors split them.
    path: the folder core50_128x128 (with s1/o1/ to s11/o50/), or the one that holds it; or a folder with train/ and
    test/, which is then listed by `listing.list_images`, as the other arguments say.
    Raises DataError if neither is there. A session's object without images is among the listing's mistakes.
    Source: Lomonaco and Maltoni 2017 (arXiv:1705.03550), scenario NC.
    """
    root = os.path.expanduser(path)
    if os.path.isdir(os.path.join(root, "train")):
        return listing.list_images(path, test_names=test_names, skip=skip)
    inside = (root, *(os.path.join(root, name) for name in _FOLDERS))
    found = next((folder for folder in inside if os.path.isdir(os.path.join(folder, "s1", "o1"))), None)
    if found is None:
        raise DataError(
            f"data.path {root} holds neither s1/o1/ nor {_FOLDERS[0]}/ with it; unpack {_FOLDERS[0]}.zip there, or "
            "give a folder that holds train/ and test/"
        )
    listed = Listing(found, skip, class_names=tuple(f"o{number}" for number in range(1, OBJECTS + 1)))
    empty = []
    for index, name in enumerate(listed.class_names):
        for session in SESSIONS:
            folder = os.path.join(found, f"s{session}", name)
            files = list(walking.find_images(folder, listed.note, Counter())) if os.path.isdir(folder) else []
            listed.splits[session in TEST_SESSIONS].extend((file, index) for file in files)
            empty += [] if files else [f"s{session}/{name}"]
    if empty:
        more = f" and {len(empty) - 1} more of its folders" if len(empty) > 1 else ""
        listed.mistakes.append(f"{found} has no images in {empty[0]}{more}; unpack the archive again")
    return listed
