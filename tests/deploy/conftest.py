"""Finished runs of a second, whose images are larger than the model takes them."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import tiny

from benchmarks import measure
from cil_func import config
from cil_func.runs import run, setup


class Trained(NamedTuple):
    """A finished run: its directory, a copy without the data and the rest of the run, its results, what it was."""

    directory: Path
    copy: Path
    results: dict
    setup: setup.Setup
    images: Path


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of four classes, 12 x 12 pixels, with twelve training and four test images each."""
    folder = tmp_path_factory.mktemp("photos")
    measure.write_images(folder, classes=4, train=12, test=4, size=12)
    return folder


@pytest.fixture(scope="session")
def runs(photos, tmp_path_factory):
    """{method: finished run}: "wa" predicts by logits, "icarl" by class means."""
    with pytest.MonkeyPatch.context() as patch:
        tiny.shallow(patch)
        return {
            method: train(photos, tmp_path_factory.mktemp(method), f"method.name={method}")
            for method in ("wa", "icarl")
        }


@pytest.fixture(params=["wa", "icarl"])
def trained(request, runs):
    """A finished run, first one and then the other."""
    return runs[request.param]


def train(photos, directory, *more):
    """Trains a run of two phases on the folder; returns it as a Trained."""
    small = ("data.increment=2", "optim.epochs=2", "optim.batch_size=12", "memory.size=12", "run.compile=false")
    given = config.load(
        "digits", tiny.settings("run.device=cpu", "run.precision=float32", *small, *more, folder=photos)
    )
    assert run.run(given, directory / "run") == 0
    copy = directory / "copy"
    copy.mkdir()
    for name in ("model.json", "model.safetensors"):
        shutil.copy(directory / "run" / name, copy / name)
    results = json.loads((directory / "run/results.json").read_text())
    return Trained(directory / "run", copy, results, setup.build(given), photos)
