"""Images for whole runs of a second or two: ten classes, 18 training and 2 test images each, of 8 x 8 pixels."""

import tempfile
from functools import cache
from pathlib import Path

from benchmarks import measure
from cil_func.networks import resnet

_FOLDER = tempfile.TemporaryDirectory(prefix="tiny-images-")  # deleted when the process ends


@cache
def images() -> Path:
    """Writes the image folder at the first call; returns its path."""
    folder = Path(_FOLDER.name) / "images"
    measure.write_images(folder, classes=10, train=18, test=2, size=8)
    return folder


def settings(*more: str) -> tuple[str, ...]:
    """Returns the settings of a run on these images, and those given."""
    return ("data.name=image_folder", f"data.path={images()}", "data.image_size=8", "run.threads=1", *more)


def flags(*more: str) -> list[str]:
    """Returns the same as train.py's flags; the preset is that of the digits."""
    return [word for setting in settings(*more) for word in ("--set", setting)]


def shallow(monkeypatch) -> None:
    """Makes every ResNet of this process one of a single block a stage: a third of the work."""
    init = resnet.init
    monkeypatch.setattr(resnet, "DEPTHS", (*resnet.DEPTHS, 8))
    monkeypatch.setattr(resnet, "init", lambda key, depth: init(key, depth=8))
