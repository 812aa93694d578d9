"""The saved model predicts what the run reported, for every method, from its two files alone."""

import json
from dataclasses import replace

import numpy as np
import one_conv
import pytest
import tiny
import torch

from cil_func import config, model, tree
from cil_func.config import effects
from cil_func.data import sources
from cil_func.data.images import Resident
from cil_func.errors import CheckpointError
from cil_func.networks.network import Model
from cil_func.runs import checkpoints, run, saved_model, setup
from cil_func.training.progress import Progress

pytestmark = pytest.mark.usefixtures("shallow")
CASES = [  # method, backbone, precision
    ("wa", "resnet20", "float32"),
    ("icarl", "resnet20", "float32"),
    ("icarl", "resnet20", "float64"),
    ("icarl", "resnet20", "bfloat16"),
    ("replay", one_conv.NAME, "float32"),
    ("lwf", "resnet20", "float64"),
    ("finetune", one_conv.NAME, "float32"),
    ("joint", one_conv.NAME, "float32"),
    ("ewc", one_conv.NAME, "float32"),
    ("bic", one_conv.NAME, "float32"),
    ("podnet", "resnet20", "float32"),
    ("der", "resnet20", "float32"),
    ("memo", "resnet20", "float32"),
    ("foster", "resnet20", "float32"),
    ("icarl-bce", one_conv.NAME, "float32"),
    ("lucir", one_conv.NAME, "float32"),
    ("il2m", one_conv.NAME, "float32"),
    ("si", one_conv.NAME, "float32"),
    ("rwalk", one_conv.NAME, "float32"),
    ("derpp", one_conv.NAME, "float32"),
    ("coil", one_conv.NAME, "float32"),
    ("tagfex", "resnet20", "float32"),
    ("icarl", "timm:test_resnet", "float32"),
    ("wa", "timm:test_resnet", "float64"),
]


@pytest.fixture
def few_digits(monkeypatch):
    """Twelve training images a class, and test sets of different sizes: 180 images in all."""
    whole = sources.load("digits")

    def rows(targets, counts):
        return np.concatenate([np.flatnonzero(targets == label)[:count] for label, count in enumerate(counts)])

    train, test = rows(whole.train_targets, [12] * 10), rows(whole.test_targets, [2, 4, 6, 8, 10] * 2)
    small = whole._replace(
        train_images=whole.train_images[train], train_targets=whole.train_targets[train],
        test_images=whole.test_images[test], test_targets=whole.test_targets[test],
    )  # fmt: skip
    monkeypatch.setattr(sources, "load", lambda *_, **__: small)
    return small


def train(directory, *overrides):
    """A finished run of 3 phases; its results."""
    settings = ("data.increment=4", "optim.epochs=2", "optim.batch_size=24", "memory.size=20", "run.device=cpu")
    settings += ("optim.bias.epochs=2", "optim.balance.epochs=2")
    assert run.run(config.load("digits", [*settings, *overrides]), directory) == 0
    return json.loads((directory / "results.json").read_text())


def accuracy_by_name(saved, images, names):
    """Percent of images whose class, by name, is that of the highest score."""
    predicted = saved_model.scores(saved, torch.from_numpy(images)).argmax(dim=1)
    found = [saved.description["classes"][index]["name"] for index in predicted.tolist()]
    return 100 * sum(map(str.__eq__, found, names)) / len(names)


@pytest.mark.parametrize(("method", "backbone", "precision"), CASES)
def test_the_saved_model_has_the_last_accuracy(few_digits, tmp_path, method, backbone, precision):
    stages = [f"optim.{name}.epochs=2" for name in effects.STAGES.get(method, ())]
    overrides = (f"method.name={method}", f"model.backbone={backbone}", f"run.precision={precision}", *stages)
    results = train(tmp_path, *overrides)
    saved = checkpoints.load_model(tmp_path)
    names = [few_digits.class_names[target] for target in few_digits.test_targets]
    assert accuracy_by_name(saved, few_digits.test_images, names) == results["last_accuracy"]
    counted = results["phases"][-1]["memory_bytes"]
    assert counted["model"] == 4 * sum(leaf.numel() for leaf in tree.leaves(saved.params))
    assert counted["remembered"] == 4 * sum(leaf.numel() for leaf in tree.leaves(saved.extra))
    images = 120 if method == "joint" else results["phases"][-1]["memory_size"]
    assert counted["exemplars"] == images * 8 * 8 * 3
    assert counted["total"] == counted["model"] + counted["remembered"] + counted["exemplars"]
    by_logits = saved._replace(description=saved.description | {"predict": "logits"})
    differs = accuracy_by_name(by_logits, few_digits.test_images, names) != results["last_accuracy"]
    assert differs is method.startswith("icarl")


def test_a_run_that_was_stopped_before_it_wrote_its_model_saves_the_same_one(few_digits, tmp_path):
    """All phases are learned, so the class means come from the exemplars in the checkpoint."""
    train(tmp_path, "method.name=icarl")
    whole = [(tmp_path / name).read_bytes() for name in ("model.safetensors", "model.json")]
    for name in ("model.safetensors", "model.json", "status.json"):
        (tmp_path / name).unlink()
    train(tmp_path, "method.name=icarl")
    assert [(tmp_path / name).read_bytes() for name in ("model.safetensors", "model.json")] == whole


def test_the_description_says_how_images_are_prepared():
    given = ("run.device=cpu", "data.mean=[0.5,0.25,0.125]", "data.std=[0.25,0.5,1.0]")
    ready = setup.build(config.load("digits", given))
    saved = saved_model.of_run(ready, Progress(learned=Model(*model.init(0, "resnet20", 10))))
    assert (saved.means, saved.description["predict"], saved.description["precision"]) == (None, "logits", "float32")
    settings = saved.description["preprocessing"]
    assert (settings["image_size"], settings["mean"], settings["std"]) == ([8, 8], [0.5, 0.25, 0.125], [0.25, 0.5, 1.0])
    rule = {"shorter_side_to": "image_size", "interpolation": "bicubic", "antialias": True, "crop": "center"}
    assert settings["resize"] == rule
    assert (settings["exif_orientation"], settings["background"]) == ("apply", [255, 255, 255])
    test_images = ready.experiment.test_images.pixels
    low = Resident(ready.experiment.train_images.pixels[:, :6])  # nothing makes other images 6 high and 8 wide
    wide = replace(ready, experiment=replace(ready.experiment, train_images=low))
    settings = saved_model.of_run(wide, Progress(learned=Model(*saved[:2]))).description["preprocessing"]
    assert (settings["image_size"], settings["resize"]) == ([6, 8], None)
    for wrong in (test_images[:, :6], test_images / 255):
        with pytest.raises(ValueError, match=r"give uint8 images of shape \(N, 8, 8, 3\)"):
            saved_model.scores(saved, wrong)


@pytest.mark.parametrize("change", ["more", "fewer", "another shape"])
def test_a_backbone_of_another_version_is_refused(change, tmp_path):
    """Weights that timm doesn't know would be left out without a word, and missing ones end somewhere inside."""
    flags = tiny.settings("model.backbone=timm:test_resnet", "run.precision=float32", "optim.epochs=1", "data.phases=1")
    assert run.run(config.load("digits", [*flags, "run.compile=false"]), tmp_path) == 0
    saved = checkpoints.load_model(tmp_path)
    leaves = tree.to_paths(saved.params)
    path, leaf = next((path, leaf) for path, leaf in leaves.items() if path.endswith("conv1.weight"))
    if change == "more":
        leaves[path.replace("weight", "gamma")] = torch.full((3,), 5.0)
    elif change == "fewer":
        del leaves[path]
    else:
        leaves[path] = torch.cat([leaf, leaf])
    saved_model.scorer(saved)
    with pytest.raises(CheckpointError, match=r"another timm:test_resnet than there is here: .*conv1.*timm [0-9.]+"):
        saved_model.scorer(saved._replace(params=tree.from_paths(leaves)))
