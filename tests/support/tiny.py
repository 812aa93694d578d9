"""Images for whole runs of a second or two, 8 x 8 pixels: ten classes of 18 training images, if not said otherwise."""

import tempfile
from functools import cache
from pathlib import Path

from benchmarks import measure
from cil_func.methods import podnet
from cil_func.networks import backbones, resnet

_FOLDER = tempfile.TemporaryDirectory(prefix="tiny-images-")  # deleted when the process ends


@cache
def images(classes: int = 10, train: int = 18) -> Path:
    """Writes an image folder at the first call, with two test images a class; returns its path."""
    folder = Path(_FOLDER.name) / f"images-{classes}-{train}"
    measure.write_images(folder, classes=classes, train=train, test=2, size=8)
    return folder


def settings(*more: str, folder: Path | None = None) -> tuple[str, ...]:
    """Returns the settings of a run on the images of a folder, None: of ten classes, and those given."""
    path = folder or images()
    return ("data.name=image_folder", f"data.path={path}", "data.image_size=8", "run.threads=1", *more)


def flags(*more: str) -> list[str]:
    """Returns the same as train.py's flags; the preset is that of the digits."""
    return [word for setting in settings(*more) for word in ("--set", setting)]


BACKBONE = backbones.backbone("resnet8")  # a third of the work of ResNet-20


def shallow(monkeypatch) -> None:
    """Makes every ResNet of this process one of a single block a stage: a third of the work. PODNet takes it too."""
    init = resnet.init
    monkeypatch.setattr(podnet, "LEAST", 1)
    monkeypatch.setattr(resnet, "init", lambda key, depth: init(key, depth=8))
