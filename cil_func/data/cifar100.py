"""Reads CIFAR-100 from a folder, and downloads it there if it is missing."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np

from cil_func.data.reading import locking
from cil_func.errors import DataError

CACHE = ".data"  # downloads go into this folder of the working directory, unless data.path is given
_TIMEOUT_SECONDS = 30.0  # of silence; without it a filtered network keeps a person waiting for minutes
_TRIES = 1000  # of a lock whose file or folder is deleted meanwhile; each of many processes may do that once


def read(path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, tuple[str, ...]]:
    """Returns (train images, train targets, test images, test targets, class names).

    path: the folder that holds cifar-100-python/, "" for `.data`. If it isn't there, continuum downloads it (169 MB)
    and checks torchvision's checksums, so that half a file is never taken for the whole.
    Images are uint8 (N, 32, 32, 3): 50,000 for training, 10,000 for testing. Targets are int64 (N,), the 100 fine
    classes. Raises DataError if it can't be downloaded, or if the folder looks like one of image files.
    Source: Krizhevsky 2009.
    """
    from continuum.datasets import CIFAR100  # imported late: it takes 3 s and loads 2,000 modules

    root = Path(os.path.expanduser(path or CACHE))  # Path.expanduser would raise for an unknown ~user
    if os.path.isdir(root / "train") and not os.path.exists(root / "cifar-100-python"):
        raise DataError(
            f"data.path {root} holds train/ and no CIFAR-100; "
            'set data.name = "image_folder" to train on that folder, or give another path for cifar100'
        )
    with _download_lock(root, "cifar-100-python"), _download_guard(root, "cifar-100-python"):
        splits = [CIFAR100(data_path=str(root), train=train, download=True) for train in (True, False)]
    arrays = [np.asarray(array) for split in splits for array in split.get_data()[:2]]
    arrays[1::2] = [targets.astype(np.int64) for targets in arrays[1::2]]
    train_images, train_targets, test_images, test_targets = arrays
    return train_images, train_targets, test_images, test_targets, tuple(splits[0].dataset.classes)


@contextmanager
def _download_lock(root: Path, stem: str) -> Iterator[None]:
    """Returns a context manager for a download that other processes, also of other machines, may begin as well.

    Its block waits while another process is in it. Where the images are there already, it waits for nobody. root, stem:
    as in `_download_guard`.
    """
    path = root / f"{stem}.lock"
    if os.path.exists(root / stem) and not os.path.exists(path):
        yield
        return
    made = [p for p in (root, *root.parents) if not os.path.exists(p)]  # inner folders first
    with ExitStack() as stack:
        with suppress(OSError):  # a folder that can't be written, or a file system without locks
            for _ in range(_TRIES):
                with suppress(FileNotFoundError):  # another process has deleted the folder or the file since
                    root.mkdir(parents=True, exist_ok=True)
                    locked = stack.enter_context(path.open("a"))
                    locking.lock(locked)
                    if os.path.samestat(os.fstat(locked.fileno()), os.stat(path)):
                        break  # else another process has deleted what was waited for, and a third has made it anew
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()
            for directory in filter(os.path.isdir, made):
                with suppress(OSError):  # it isn't empty
                    directory.rmdir()


@contextmanager
def _download_guard(root: Path, stem: str) -> Iterator[None]:
    """Returns a context manager for a download: if it fails, everything that it made is deleted and DataError raised.

    root: the folder of the download. stem: the archive is root/stem.tar.gz and unpacks to root/stem.
    What was there before is not deleted. After an interrupt the same is deleted, and the interrupt is raised as it is.
    """
    new = [p for p in (root / stem, root / f"{stem}.tar.gz") if not os.path.exists(p)]
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT_SECONDS)
    try:
        yield
    except BaseException as error:
        for left in filter(os.path.lexists, new):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        if not isinstance(error, Exception):
            raise
        lines = str(error).splitlines()
        raise DataError(
            f"cifar100 is not in {root} and could not be downloaded there "
            f"({type(error).__name__}: {lines[0] if lines else 'no reason given'}); if you have the images "
            'as files, set data.name = "image_folder" and data.path to the folder that holds train/ and test/'
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
