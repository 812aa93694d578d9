"""Finds the image files that the paths of a command line mean."""

import os
from collections import Counter
from collections.abc import Sequence

from cil_func.data.reading import walking


def image_files(paths: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Returns (files, {path: reason} of the paths that can't be used).

    paths: files, taken whatever their name says, and folders, searched with all folders below them for files named
    like images, see `walking.find_images`. Files are in the order of the paths, those of a folder sorted.
    """
    files: list[str] = []
    refused: dict[str, str] = {}
    for path in paths:
        if not os.path.isdir(path):
            if os.path.lexists(path):
                files.append(path)
            else:
                refused[path] = "there is no such file or folder"
            continue
        others: Counter = Counter()
        found = list(walking.find_images(path, refused.__setitem__, others))
        files += found
        if not found and path not in refused:
            there = f", only {walking.counts_text(others)}" if others else ""
            refused[path] = f"there is no image in it{there}"
    return files, refused
