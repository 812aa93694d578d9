"""Test images with the names of their classes: those of a run's data set, or of a folder."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from cil_func import config as configuration
from cil_func.config import Config, names
from cil_func.data import sources
from cil_func.data.reading import class_folders, listing, walking
from cil_func.errors import ConfigError, DataError, Mistakes
from cil_func.runs import load_data

TEST_FOLDERS = ("test", "val")


class Labelled(NamedTuple):
    """Images and the names of their classes.

    names: of the class of each of the N images. images: N paths, or an array (N, H, W, 3), as a `Predictor` takes them.
    """

    names: list[str]
    images: Any

    def of_classes(self, wanted: Collection[str]) -> "Labelled":
        """Returns the images of the wanted classes, in the same order."""
        rows = [row for row, name in enumerate(self.names) if name in wanted]
        images = [self.images[row] for row in rows] if isinstance(self.images, list) else self.images[rows]
        return Labelled([self.names[row] for row in rows], images)

    def renamed(self, name_of: Callable[[str], str]) -> "Labelled":
        """Returns the same images, with name_of(name) for each class name."""
        return self._replace(names=[name_of(name) for name in self.names])


def of_run(directory: Path) -> Labelled:
    """Returns the test images that a run's configuration names. Image files are not opened yet.

    directory: of the run, with its config.toml.
    Raises ConfigError if there is no configuration, DataError if the images are not there any more.
    """
    path = directory / "config.toml"
    if not path.exists():
        raise ConfigError(f"{directory} has no config.toml, so it is unknown where its images are; give --data FOLDER")
    return of_config(configuration.of_run(directory))


def extended_by(directory: Path) -> Path | None:
    """Returns the directory of the run that a run has gone on from, which knows where the old classes' images are.

    None if it has begun from nothing, or if it has no config.toml that can be read.
    """
    path = directory / "config.toml"
    try:
        found = configuration.of_run(directory).run.extends if path.exists() else ""
    except ConfigError:
        return None
    return Path(found) if found else None


def of_config(config: Config) -> Labelled:
    """Returns the test images that a configuration names. Raises DataError if they are not there.

    They have their own size, since each model brings them to that which it takes. Only a user's own data set is asked
    for that of the configuration.
    """
    settings = config.data
    if settings.name not in sources.OF_FILES:
        if not names.is_own(settings.name):
            config = config.model_copy(update={"data": settings.model_copy(update={"image_size": 0})})
        data = load_data.images_of(config)
        return Labelled([data.class_names[target] for target in data.test_targets], data.test_images)
    files, class_names = sources.test_files(
        settings.name, settings.path, skip=settings.on_error == "skip", subset=settings.subset
    )
    return Labelled([class_names[target] for _, target in files], [file for file, _ in files])


def of_folder(folder: str) -> Labelled:
    """Returns the images of a folder by class: FOLDER/test/CLASS/**, FOLDER/val/CLASS/**, or else FOLDER/CLASS/**.

    Links are followed, names that begin with a dot are ignored. Files are not opened.
    Raises DataError for a folder that can't be listed, and if there is no image in a folder of a class.
    """
    top = os.path.expanduser(folder)
    there = [name for name in TEST_FOLDERS if os.path.isdir(os.path.join(top, name))]
    if there:
        top = os.path.join(top, there[0])
    mistakes = Mistakes()
    classes = class_folders.find(top, mistakes.lines)
    note = lambda path, reason: mistakes.lines.append(f"{path}: {reason}")  # noqa: E731
    found = [
        (listing.text_of(name), file)
        for name, on_disk in sorted(classes.items())
        for file in walking.find_images(os.path.join(top, on_disk), note, Counter())
    ]
    mistakes.refuse()
    if not found:
        raise DataError(f"{top} holds no images in folders of classes; give a folder that holds one folder a class")
    return Labelled([name for name, _ in found], [file for _, file in found])


def known(parts: Iterable[Labelled], wanted: Collection[str]) -> list[Labelled]:
    """Returns the images of the wanted classes: those of a class come from the first of `parts` that has the class."""
    missing, found = set(wanted), []
    for part in parts:
        if missing:
            found.append(part.of_classes(missing))
            missing -= set(part.names)
    return found
