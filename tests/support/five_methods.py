"""Whole small runs of the methods that remember, grow or have stages: 4 classes in 2 phases, float64, without files.

As a script, by torchrun, it runs them all in several processes; the first one saves the weights to the given file.
"""

import sys
import tempfile
from functools import cache
from pathlib import Path

import borders
import one_conv
import torch

from benchmarks import measure
from cil_func import experiment, tree
from cil_func.config import load
from cil_func.methods import podnet
from cil_func.networks import resnet
from cil_func.parallel.joining import join
from cil_func.parallel.launch import launched
from cil_func.parallel.processes import ALONE
from cil_func.runs import setup
from cil_func.training.progress import Progress

_FOLDER = tempfile.TemporaryDirectory(prefix="four-classes-")  # deleted when the process ends
METHODS = (
    "ewc", "mas", "bic", "podnet", "der",
    "icarl-bce", "balanced", "eeil", "lucir", "il2m", "lwm",
    "si", "rwalk", "derpp", "agem", "gem",
    "memo", "foster", "coil", "tagfex",
)  # fmt: skip
DEEPER = ("podnet", "der", "memo", "foster", "tagfex")  # on a ResNet of a block a stage; the others on one convolution
OPTIONS = {"balanced": ["method.options.tuned_epochs=2"], "lucir": ["method.options.tuned_epochs=2"]}
SETTINGS = (
    "run.precision=float64", "run.compile=false", "run.threads=1", "data.name=image_folder", "data.image_size=8",
    "data.increment=2", "optim.epochs=2", "optim.batch_size=12", "optim.norm_batch=6", "optim.learning_rate=0.01",
    "memory.size=12", "optim.bias.epochs=2", "optim.balance.epochs=2", "augment.crop_padding=1",
)  # fmt: skip


def build(method: str, processes=ALONE) -> experiment.Experiment:
    """The experiment of a method on 9 training images of each class."""
    settings = [*SETTINGS, f"data.path={_images()}", f"method.name={method}", *OPTIONS.get(method, ())]
    settings += [] if method in DEEPER else [f"model.backbone={one_conv.NAME}"]
    return setup.build(load("digits", settings), processes).experiment


@cache
def _images() -> Path:
    folder = Path(_FOLDER.name) / "images"
    measure.write_images(folder, classes=4, train=9, test=2, size=8)
    return folder


def result(progress: Progress) -> tuple:
    """What has to be the same: the model, what the method remembers, the exemplars."""
    return progress.learned, progress.extra, progress.exemplars


def main() -> None:
    torch.set_num_threads(1)
    init, podnet.LEAST = resnet.init, 1
    resnet.DEPTHS, resnet.init = (*resnet.DEPTHS, 8), lambda key, depth: init(key, depth=8)
    with join(launched(), timeout_seconds=100, on_loss=lambda failure: None) as processes:
        results = {method: result(borders.run(build(method, processes))) for method in METHODS}
        if processes.first:
            torch.save(tree.map(lambda leaf: leaf.cpu(), results), sys.argv[1])
            print("saved", flush=True)


if __name__ == "__main__":
    main()
