"""Where images come from: a name -> `Dataset`."""

import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import numpy as np
from einops import repeat
from PIL import Image

from cil_func.data.reading import decoding, folders, image_file, listing, variation
from cil_func.data.reading.decoding import ImageMemory
from cil_func.errors import ConfigError, DataError, printable

NAMES = ("digits", "cifar100", "image_folder", "imagenet100", "imagenet1000")
ON_ERROR = ("stop", "skip")
OF_FILES = ("image_folder", "imagenet100", "imagenet1000")  # those that are read from image files
OWN_SIZES = {"digits": 8, "cifar100": 32, "imagenet100": 224, "imagenet1000": 224}  # side in pixels, at image_size 0
_TEST_NAMES = {"image_folder": ("test", "val"), "imagenet100": ("val",), "imagenet1000": ("val",)}
CACHE = ".data"  # downloads go here, beside the working directory, unless data.path is given
_TIMEOUT_SECONDS = 30.0  # of silence; without it a filtered network keeps a person waiting for minutes


class Dataset(NamedTuple):
    """Images uint8 (N, H, W, 3); targets int64 (N,), original class indices, each of 0..K-1 in both.

    skipped: what `on_error = "skip"` left out, "train/cat/3.png: the file is empty", relative to the path.
    warnings: what a person should know of the files, one line each. stamp: differs if the files have changed, see
    `listing.stamp`; "" without files.
    """

    train_images: np.ndarray
    train_targets: np.ndarray
    test_images: np.ndarray
    test_targets: np.ndarray
    class_names: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    stamp: str = ""


def stamp(name: str, path: str) -> str:
    """The stamp that `load` would give now, without reading an image. Raises DataError for a folder that is not fit."""
    if name not in OF_FILES:
        return ""
    return listing.stamp(listing.list_images(path, test_names=_TEST_NAMES[name], skip=True))


def load(
    name: str,
    *,
    path: str = "",
    image_size: int = 0,
    on_error: str = "stop",
    exif_orientation: str = "auto",
    background: Sequence[int] = image_file.WHITE,
    check: Callable[[tuple[str, ...]], None] = lambda class_names: None,
    memory: ImageMemory = decoding.OWN_MEMORY,
) -> Dataset:
    """Loads a whole data set into memory, its images into `memory`.

    name: one of NAMES; path: the folder of image files, or where cifar100 is kept; image_size: 0 for the
    images' own (ImageNet: 224), otherwise the side in pixels that each is brought to, see `images.resize`.
    on_error: what an image file that can't be read does, "stop" with a DataError that names it, or "skip": it
    is left out and listed in `skipped`. exif_orientation: "apply", "ignore", or "auto": apply for image_folder, ignore
    for ImageNet, as the field's results do. background: the colour behind transparent pixels; () drops the alpha
    channel. digits and cifar100 have no files of single images and ignore these three.
    check: is called with the class names, before the images are read where these are files, and may raise DataError.
    `imagenet100` is whichever 100 class folders are in (or linked into) path/train and path/val: several
    subsets go by that name, and continuum would fetch one list of them from the network.
    Raises DataError (one line) for data that is missing or unfit, ConfigError for an unknown name.
    """
    if on_error not in ON_ERROR:
        raise ConfigError(f"data.on_error = {on_error!r}; known are {', '.join(ON_ERROR)}")
    if image_size < 0:
        raise ConfigError(f"data.image_size = {image_size}; give a side in pixels, or 0 for the images' own")
    if name == "digits":
        return _resized(_checked(_digits(), check), image_size, memory)
    if name == "cifar100":
        return _resized(_checked(_cifar100(path), check), image_size, memory)
    if name in OF_FILES:
        rules = file_rules(name, exif_orientation=exif_orientation, background=background)
        if name == "image_folder":
            return _folder(path, image_size, on_error, rules, check, memory, _TEST_NAMES[name])
        size, num_classes = image_size or OWN_SIZES[name], int(name[len("imagenet") :])
        return _imagenet(path, size, on_error, rules, check, memory, num_classes=num_classes)
    near = get_close_matches(name, NAMES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"data.name = {name!r}; known are {', '.join(NAMES)}{hint}")


def file_rules(name: str, *, exif_orientation: str, background: Sequence[int]) -> image_file.Rules:
    """How image files are read for the data set called `name`: see `load` for the arguments."""
    upright = exif_orientation == "apply" or (exif_orientation == "auto" and not name.startswith("imagenet"))
    return image_file.Rules(upright, tuple(background) or None)


def _digits() -> Dataset:
    """scikit-learn's 1,797 digits of 8x8 pixels, embedded in the package; a stratified fifth is the test set.

    Source: UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998), pixels 0..16.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8)
    images = repeat(grey, "n h w -> n h w c", c=3)
    targets = digits.target.astype(np.int64)
    rows = np.arange(len(targets))
    train_rows, test_rows = train_test_split(rows, test_size=0.2, stratify=targets, random_state=0)
    names = tuple(str(digit) for digit in digits.target_names)
    return Dataset(images[train_rows], targets[train_rows], images[test_rows], targets[test_rows], names)


def _cifar100(path: str) -> Dataset:
    """CIFAR-100 by continuum, from `path` (default `.data`) or else downloaded into it (169 MB).

    Source: Krizhevsky 2009; checksums are torchvision's, so half a file is never taken for the whole.
    """
    from continuum.datasets import CIFAR100  # late: 3 s and 2,000 modules

    root = Path(os.path.expanduser(path or CACHE))  # Path's own raises for an unknown ~user
    if os.path.isdir(root / "train") and not os.path.exists(root / "cifar-100-python"):
        raise DataError(
            f"data.path {root} holds train/ and no CIFAR-100; "
            'set data.name = "image_folder" to train on that folder, or give another path for cifar100'
        )
    with _download_guard(root, "cifar-100-python"):
        splits = [CIFAR100(data_path=str(root), train=train, download=True) for train in (True, False)]
    arrays = [np.asarray(array) for split in splits for array in split.get_data()[:2]]
    arrays[1::2] = [targets.astype(np.int64) for targets in arrays[1::2]]
    return Dataset(*arrays, tuple(splits[0].dataset.classes))


@contextmanager
def _download_guard(root: Path, stem: str) -> Iterator[None]:
    """A failed download becomes one DataError, and leaves the disk as it was found.

    root: the folder; stem: the archive is root/stem.tar.gz and unpacks to root/stem. continuum makes
    missing folders and torchvision writes to the final name: what was not there before is removed.
    """
    made = [p for p in (root, *root.parents) if not os.path.exists(p)]  # inner before outer
    new = [p for p in (root / stem, root / f"{stem}.tar.gz") if not os.path.exists(p)]
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    except BaseException as error:
        for left in filter(os.path.lexists, new):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        for directory in filter(os.path.isdir, made):
            if not any(directory.iterdir()):
                directory.rmdir()
        if not isinstance(error, Exception):  # an interrupt stays one
            raise
        lines = str(error).splitlines()
        raise DataError(
            f"cifar100 is not in {root} and could not be downloaded there "
            f"({type(error).__name__}: {lines[0] if lines else 'no reason given'}); if you have the images "
            'as files, set data.name = "image_folder" and data.path to the folder that holds train/ and test/'
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)


def _checked(dataset: Dataset, check: Callable[[tuple[str, ...]], None]) -> Dataset:
    check(dataset.class_names)
    return dataset


def _folder(
    path: str,
    image_size: int,
    on_error: str,
    rules: image_file.Rules,
    check: Callable[[tuple[str, ...]], None],
    memory: ImageMemory,
    test_names: Sequence[str],
) -> Dataset:
    skipped: list[str] = []
    warnings: list[str] = []
    stamps: list[str] = []
    arrays = folders.read(
        path,
        image_size=image_size,
        test_names=test_names,
        skip=skipped.append if on_error == "skip" else None,
        rules=rules,
        warn=warnings.append,
        check=check,
        listed=lambda found: stamps.append(listing.stamp(found)),
        memory=memory,
    )
    train_images, train_targets, _, _, class_names = arrays
    warnings += variation.constant_class_warnings(train_images, train_targets, class_names)
    return Dataset(*arrays, tuple(skipped), tuple(map(printable, warnings)), stamps[0])


def _imagenet(
    path: str,
    image_size: int,
    on_error: str,
    rules: image_file.Rules,
    check: Callable[[tuple[str, ...]], None],
    memory: ImageMemory,
    *,
    num_classes: int,
) -> Dataset:
    """A folder with train/ and val/ (ImageNet's test/ has no labels), of exactly num_classes classes."""
    # counted first: a wrong folder shouldn't be decoded for an hour before it is refused
    train = os.path.join(os.path.expanduser(path), "train")
    if path and os.path.isdir(train):
        found = len(listing.class_folders(train))
        if found != num_classes:
            raise DataError(
                f"{train} has {found} class folders, imagenet{num_classes} has {num_classes}; "
                'link those you mean into a folder of their own, or set data.name = "image_folder"'
            )
    return _folder(path, image_size, on_error, rules, check, memory, _TEST_NAMES["imagenet100"])


def _resized(dataset: Dataset, image_size: int, memory: ImageMemory) -> Dataset:
    """The data set with images of image_size x image_size; 0 leaves them."""
    if image_size in (0, dataset.train_images.shape[1]):
        return dataset

    count = len(dataset.train_images) + len(dataset.test_images)
    decoding.check_memory(count, image_size, image_size, copies=memory.copies)

    def resize_all(pixels: np.ndarray) -> np.ndarray:
        resized = memory.empty((len(pixels), image_size, image_size, 3))  # a stack would be held twice
        for image, slot in zip(pixels, resized, strict=True):
            slot[:] = image_file.resize(Image.fromarray(image), image_size)
        return resized

    return dataset._replace(
        train_images=resize_all(dataset.train_images), test_images=resize_all(dataset.test_images)
    )
