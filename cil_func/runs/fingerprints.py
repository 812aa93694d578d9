"""Fingerprints of images: of two data sets with the same one, row i is the same image in both."""

import hashlib

import numpy as np

from cil_func.data import streamed
from cil_func.data.reading.file_table import Joined, Pixels, spread, take
from cil_func.data.reading.packed import PackedFile
from cil_func.data.sources import Dataset

_OF_CLASS = 4  # files or packed images of a class whose content counts, evenly spread


def of_data(data: Dataset) -> str:
    """Returns the SHA-256 of every pixel, the labels, the class names and the skipped files, as hexadecimal digits.

    Takes 0.2 s for the 150 MB of CIFAR-100. Of images that stay in their files it is the files' names, and the content
    of some of them: reading all would take as long as an epoch.
    """
    splits = (data.train_images, data.train_targets), (data.test_images, data.test_targets)
    return _hash(repr((data.class_names, data.skipped)), *splits)


def of_tests(data: Dataset) -> str:
    """Returns the fingerprint, as `of_data` makes it, of class names and test images with their labels alone."""
    return _hash(repr(data.class_names), (data.test_images, data.test_targets))


def of_classes(data: Dataset, *, packed: bool = False) -> tuple[str, ...]:
    """Returns for each class, by index, the SHA-256 of its test images in their order, as hexadecimal digits.

    Names of classes and folders don't count. Of images that stay in their files it is the files' names, and the content
    of some of them; of packed images some of them, since reading all would take minutes. packed: whether these images
    were packed, though they are read without that now.
    """
    order = np.argsort(data.test_targets, kind="stable")
    counts = np.bincount(data.test_targets, minlength=len(data.class_names))
    rows = np.split(order, np.cumsum(counts)[:-1])
    if packed or isinstance(data.test_images, PackedFile):
        rows = [own[spread(len(own), _OF_CLASS)] for own in rows]
    return tuple(_of_images(data.test_images, own, count) for own, count in zip(rows, counts.tolist(), strict=True))


def _of_images(images: Pixels, rows: np.ndarray, count: int) -> str:
    assert not isinstance(images, Joined), "a data set is read alone"
    found = hashlib.sha256(str(count).encode())
    for part in streamed.contents(take(images, rows), parts=1, most=_OF_CLASS):
        found.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _hash(text: str, *splits: tuple[Pixels, np.ndarray]) -> str:
    """Returns the SHA-256 of a text, and of the images and labels of each split, as hexadecimal digits."""
    found = hashlib.sha256(text.encode(errors="surrogateescape"))
    for images, targets in splits:
        for part in (np.array(images.shape), targets, *streamed.contents(images)):
            found.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return found.hexdigest()
