"""Loads a data set by its name."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from cil_func.data import cifar100, digits
from cil_func.data.reading import (
    core50,
    cub200,
    decoding,
    folders,
    image_file,
    listing,
    subsets,
    variation,
)
from cil_func.data.reading.decoding import ImageMemory
from cil_func.data.reading.file_table import Pixels
from cil_func.data.reading.listing import Listing
from cil_func.data.reading.pixels import WHITE, Rules
from cil_func.errors import ConfigError, Mistakes, printable

NAMES = ("digits", "cifar100", "image_folder", "imagenet100", "imagenet1000", "cub200", "core50")
ON_ERROR = ("stop", "skip")
OF_FILES = ("image_folder", "imagenet100", "imagenet1000", "cub200", "core50")  # those that are read from image files
# Side in pixels, at image_size 0.
OWN_SIZES = {"digits": 8, "cifar100": 32, "imagenet100": 224, "imagenet1000": 224, "cub200": 224, "core50": 128}
_OF_IMAGENET = {"imagenet100": 100, "imagenet1000": 1000}  # name: number of classes
_TEST_NAMES = dict.fromkeys(OF_FILES, ("test", "val")) | dict.fromkeys(_OF_IMAGENET, ("val",))
_LISTS = {"cub200": cub200.list_images, "core50": core50.list_images}  # those that are listed as they are distributed


class Dataset(NamedTuple):
    """A data set.

    train_images, test_images: uint8 (N, H, W, 3), of one size, or a `FileTable` of images that stay in their files, or
    some of both.
    train_targets, test_targets: int64 (N,), the original class indices 0..K-1, each with images in both splits.
    class_names: the name of each index.
    skipped: the files that were left out, by `on_error = "skip"`, like "train/cat/3.png: the file is empty"; paths are
    relative to the data set's. warnings: what a person should know about the files, one line each.
    stamp: a text that differs if the files have changed, see `listing.stamp`; "" for a data set without image files.
    train_files: the file of each training image, relative to the data set's folder; () without image files.
    class_tests: a fingerprint of each class's test images, see `fingerprints.of_classes`; () if nobody has asked.
    held_out: for a run that extends another one, the old classes that are tested on exemplars, by class index.
    why_held_out: what has become of their own test images, in words.
    """

    train_images: Pixels
    train_targets: np.ndarray
    test_images: Pixels
    test_targets: np.ndarray
    class_names: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    stamp: str = ""
    train_files: tuple[str, ...] = ()
    class_tests: tuple[str, ...] = ()
    held_out: tuple[int, ...] = ()
    why_held_out: str = ""


def stamp(name: str, path: str, *, subset: str = "") -> str:
    """Returns the stamp that `load` would return now, without opening an image; "" for a data set without image files.

    name, path, subset: as `load` takes them. Raises DataError for a folder that can't be used.
    """
    if name not in OF_FILES:
        return ""
    return listing.stamp(_lister(name, subset, one_class=True)(path, test_names=_TEST_NAMES[name], skip=True))


def test_files(
    name: str, path: str, *, skip: bool, subset: str = ""
) -> tuple[list[tuple[str, int]], tuple[str, ...]]:
    """Lists the test images of a data set of image files, without opening them.

    name: one of OF_FILES. path, subset: as `load` takes them. skip: whether paths that can't be used are left out.
    Returns (the (file, class index) of each image, the class names by index), in the order of `load`'s test images.
    Raises DataError with all that is wrong with the folder.
    """
    found = _lister(name, subset, only_tests=True)(path, test_names=_TEST_NAMES[name], skip=skip)
    Mistakes(found.mistakes).refuse()
    return found.splits[1], tuple(map(listing.text_of, found.class_names))


def load(
    name: str,
    *,
    path: str = "",
    image_size: int = 0,
    on_error: str = "stop",
    exif_orientation: str = "auto",
    background: Sequence[int] = WHITE,
    check: Callable[[tuple[str, ...]], None] = lambda class_names: None,
    memory: ImageMemory = decoding.OWN_MEMORY,
    storage: str = "resident",
    workers: int = 0,
    packed: str = "",
    subset: str = "",
    one_class: bool = False,
    only_tests: bool = False,
) -> Dataset:
    """Loads a data set and returns it as a Dataset.

    name: one of NAMES. path: the folder of image files; for cifar100 the folder where it is stored, "" for `.data`.
    image_size: the side in pixels that each image is brought to, see `image_file.resize`; 0 keeps the images' own size
    (224 for ImageNet).
    check: called with the class names, before any image file is read; it may raise DataError.
    memory: where the images are stored. storage, workers: see `folders.Settings`; other data sets than those of image
    files are always in memory. packed: the folder of the packed file of storage "packed"; "": `packed` in path, or in
    `.data` if path can't be written. subset: which of the class folders are read, see `subsets.choose`; "": all.
    one_class: whether a folder of a single class is allowed, as one new class is for a run that extends another one;
    ImageNet's number of classes isn't asked for then. only_tests: whether to read the test images alone;
    there are no training images then.

    Three settings matter only for data sets of image files. on_error: "stop" raises a DataError that names the first
    file that can't be read, "skip" leaves such files out and lists them in `skipped`. exif_orientation: "apply" or
    "ignore", or "auto", which applies it for image_folder and ignores it for ImageNet, as published results do.
    background: the RGB colour behind transparent pixels; () drops the alpha channel.

    `imagenet100` is whichever 100 class folders are in path/train and path/val, since several subsets go by that name;
    of all of ImageNet's folders `subset` says which. `cub200` and `core50` may be as they are distributed, see
    `cub200.list_images` and `core50.list_images`.
    Raises DataError, one line, for data that are missing or can't be used. Raises ConfigError for an unknown name and
    other settings out of range.
    """
    if on_error not in ON_ERROR:
        raise ConfigError(f"data.on_error = {on_error!r}; known are {', '.join(ON_ERROR)}")
    if image_size < 0:
        raise ConfigError(f"data.image_size = {image_size}; give a side in pixels, or 0 for the images' own")
    if name in OF_FILES:
        rules = file_rules(name, exif_orientation=exif_orientation, background=background)
        if name != "image_folder":
            image_size = image_size or OWN_SIZES[name]
        if name in _OF_IMAGENET and not (one_class or only_tests):
            subsets.refuse_count(path, name, subset, _OF_IMAGENET[name])
        settings = folders.Settings(
            image_size, _TEST_NAMES[name], on_error == "skip", rules, check, memory, storage, workers,
            _packed_places(path, packed, subset), _lister(name, subset, one_class, only_tests), one_class or only_tests,
        )  # fmt: skip
        return _load_files(path, settings)
    if name not in NAMES:
        near = get_close_matches(name, NAMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"data.name = {name!r}; known are {', '.join(NAMES)}{hint}")
    dataset = Dataset(*(digits.read() if name == "digits" else cifar100.read(path)))
    check(dataset.class_names)
    if only_tests:
        none = np.empty((0, *dataset.test_images.shape[1:]), dtype=np.uint8)
        dataset = dataset._replace(train_images=none, train_targets=dataset.train_targets[:0])
    return _resized(dataset, image_size, memory)


_NOT_UPRIGHT = ("imagenet", "cub200", "core50")  # whose published code ignores EXIF


def file_rules(name: str, *, exif_orientation: str, background: Sequence[int]) -> Rules:
    """Returns the rules by which a data set's image files are decoded. The arguments are those of `load`."""
    upright = exif_orientation == "apply" or (exif_orientation == "auto" and not name.startswith(_NOT_UPRIGHT))
    return Rules(upright, tuple(background) or None)


def _load_files(path: str, settings: folders.Settings) -> Dataset:
    """Loads a data set of image files; see `folders.read`."""
    found = folders.read(path, settings)
    warnings = list(found.warnings)
    if isinstance(found.train_images, np.ndarray):
        warnings += variation.constant_class_warnings(found.train_images, found.train_targets, found.class_names)
    root = os.path.expanduser(path)
    inside = tuple(listing.text_of(Path(os.path.relpath(file, root)).as_posix()) for file in found.train_files)
    return Dataset(*found[:6], tuple(map(printable, warnings)), found.stamp, inside)


def _lister(name: str, subset: str, one_class: bool = False, only_tests: bool = False) -> Callable[..., Listing]:
    """Returns the function (path, *, test_names, skip) that lists a data set's files. The arguments: as in `load`."""
    if only_tests:
        return _tests_of(_LISTS[name]) if name in _LISTS else partial(listing.list_tests, subset=subset)
    return _LISTS.get(name) or partial(listing.list_images, subset=subset, one_class=one_class)


def _tests_of(lists: Callable[..., Listing]) -> Callable[..., Listing]:
    """Returns a function that lists what `lists` does, or a test folder, without the training images."""

    def call(path: str, *, test_names: Sequence[str], skip: bool) -> Listing:
        if any(os.path.isdir(os.path.join(os.path.expanduser(path), name)) for name in test_names):
            return listing.list_tests(path, test_names=test_names, skip=skip)
        found = lists(path, test_names=test_names, skip=skip)
        return replace(found, splits=([], found.splits[1]))

    return call


def _packed_places(path: str, folder: str, subset: str) -> list[str]:
    """Returns where a data set's packed file may be, see `packing.path_of`. folder: `packed` of `load`.

    Raises DataError if `subset` is a file that can't be read.
    """
    root = os.path.abspath(os.path.expanduser(path))
    chosen = subset
    if subset and subset not in subsets.NAMED:  # two files may have one name, and a file may change
        chosen = f"{Path(subset).stem[:50]}-{hashlib.sha256(repr(subsets.lines(subset)).encode()).hexdigest()[:8]}"
    name = "-".join(filter(None, (os.path.basename(root)[:50], chosen)))
    several = f"{name}-{hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:8]}"  # of other folders, too
    if folder:
        return [os.path.join(os.path.expanduser(folder), several)]
    return [os.path.join(root, "packed", name), os.path.join(cifar100.CACHE, "packed", several)]


def _resized(dataset: Dataset, image_size: int, memory: ImageMemory) -> Dataset:
    """Returns the data set with images of image_size x image_size, stored in `memory`.

    image_size: the side in pixels, see `image_file.resize`; 0, or the images' own height, leaves them as they are.
    """
    if image_size in (0, dataset.train_images.shape[1]):
        return dataset

    count = len(dataset.train_images) + len(dataset.test_images)
    decoding.check_memory(count, image_size, image_size, copies=memory.copies)

    def resize_all(pixels: Pixels) -> np.ndarray:
        assert isinstance(pixels, np.ndarray), "only data sets without files are resized here"
        resized = memory.empty((len(pixels), image_size, image_size, 3))  # np.stack would need the memory twice
        for image, slot in zip(pixels, resized, strict=True):
            slot[:] = image_file.resize(Image.fromarray(image), image_size)
        return resized

    return dataset._replace(
        train_images=resize_all(dataset.train_images), test_images=resize_all(dataset.test_images)
    )
