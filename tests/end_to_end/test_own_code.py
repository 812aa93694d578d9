"""A user's own method, backbone, data set and optimiser, in files outside the package, run by train.py."""

import json
from functools import partial
from pathlib import Path

import pytest
import tiny
import torch

import train

pytestmark = pytest.mark.usefixtures("shallow")
METHOD = Path(__file__).parents[1] / "own" / "adjusted_replay.py"
CODE = """
import numpy as np
import torch

from cil_func import optim, tree
from cil_func.networks import resnet
from cil_func.networks.backbones import Backbone


def backbone(scale: float = 1.0):
    def init(key, *, image_size):
        generator = torch.Generator().manual_seed(key % 2**31)
        return {"weight": torch.randn(5, 3 * image_size[0] * image_size[1], generator=generator) * scale}, {}

    def apply(params, state, images, *, train, **_):
        return torch.relu(images.flatten(1) @ params["weight"].T), {}, state

    return Backbone(init=init, apply=apply, feature_dim=lambda: 5)


def data(path, per_class: int = 6):
    generator = np.random.default_rng(0)
    targets = np.repeat(np.arange(4), per_class)
    images = generator.integers(0, 64, (len(targets), 6, 8, 3)) + 48 * targets[:, None, None, None]
    return images.astype("uint8"), targets, images.astype("uint8"), targets, ["a", "b", "c", "d"]


def sign(momentum, weight_decay, scale: float = 1.0):
    def update(grads, opt_state, params, rate):
        return tree.map(lambda grad: -rate * scale * grad.sign(), grads), opt_state

    return optim.Optimiser(lambda params: {}, update)


def broken(path):
    raise RuntimeError("no disk here")
"""


def run(directory, *settings: str) -> int:
    words = [word for setting in settings for word in ("--set", setting)]
    return train.main(["--out", str(directory), *tiny.flags("run.compile=false", "optim.epochs=2"), *words])


def results(directory) -> dict:
    return json.loads((directory / "results.json").read_text())


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "code.py"
    path.write_text(CODE)
    return path


def test_the_example_is_short():
    assert len(METHOD.read_text().splitlines()) < 40


def test_a_method_by_its_path_with_an_option(tmp_path):
    """With tau = 0 it is replay, to the bit; with 1 it is not. Its name is in the results."""
    assert run(tmp_path / "replay", "method.name=replay") == 0
    for tau in (0.0, 1.0):
        assert run(tmp_path / str(tau), f"method.name={METHOD}:make", f"method.options.tau={tau}") == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("replay", "0.0", "1.0")]
    assert weights[0] == weights[1] != weights[2]
    assert results(tmp_path / "1.0")["method"] == "adjusted-replay"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_backbone_a_data_set_and_an_optimiser_by_their_path(code, tmp_path, precision, capsys):
    """With options of each. The images are 6 high and 8 wide."""
    settings = (
        f"model.backbone={code}:backbone", "model.options.scale=0.5", f"data.name={code}:data", "data.path=x",
        "data.image_size=0", "data.options.per_class=5", "data.increment=2", f"optim.name={code}:sign",
        "optim.options.scale=2", "optim.learning_rate=0.25", "optim.schedule=constant", "augment.crop_padding=0",
        "optim.epochs=1", "optim.batch_size=32", "method.name=wa", f"run.precision={precision}", "memory.size=8",
    )  # fmt: skip
    assert train.main([*tiny.flags("run.compile=false", *settings), "--dry-run"]) == 0, capsys.readouterr().err
    assert run(tmp_path / "out", *settings) == 0
    found = results(tmp_path / "out")
    assert found["class_names"] and len(found["class_order"]) == 4 and found["phases"][-1]["classes_seen"] == 4
    from cil_func.runs import checkpoints

    saved = checkpoints.load_model(tmp_path / "out")
    assert saved.params["backbone"]["backbone"]["weight"].shape == (5, 3 * 6 * 8)
    assert saved.description["preprocessing"]["image_size"] == [6, 8]
    assert torch.isfinite(saved.params["classifier"]["weight"]).all()


@pytest.mark.parametrize(("settings", "status", "line"), [
    (("data.name={code}:broken",), 2, "no disk here"),
    (("model.backbone={code}:sign", ), 2, "momentum"),
    (("model.backbone={code}:data", "data.path=x"), 2, "path"),
    (("method.name={code}:data", "method.options.per_class=2"), 2, "path"),
    (("method.name={code}:sign2",), 2, "sign"),
])  # fmt: skip
def test_what_is_wrong_in_own_code_is_one_line(settings, status, line, code, tmp_path, capsys):
    assert run(tmp_path / "out", *(setting.format(code=code) for setting in settings)) == status
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and line in said[0] and "Traceback" not in said[0]


def test_a_finished_run_is_not_taken_for_one_on_other_images_of_the_same_function(tmp_path, capsys):
    """Whatever the function does with data.path, only its images show whether they are the run's."""
    code = tmp_path / "code.py"
    code.write_text(CODE.replace("default_rng(0)", "default_rng(int(open(path).read()))"))
    for name, seed in (("one", 0), ("other", 1), ("copy", 0)):
        (tmp_path / name).write_text(str(seed))
    settings = (
        f"model.backbone={code}:backbone", f"data.name={code}:data", "data.image_size=0", "data.increment=2",
        "augment.crop_padding=0", "optim.epochs=1", "method.name=finetune",
    )  # fmt: skip
    again = partial(run, tmp_path / "out", *settings)
    assert again(f"data.path={tmp_path / 'one'}") == again(f"data.path={tmp_path / 'one'}") == 0
    assert "warning" not in capsys.readouterr().err
    assert again(f"data.path={tmp_path / 'copy'}") == 0
    assert again(f"data.path={tmp_path / 'other'}") == 2
    assert "holds a run of other images: data.path is" in capsys.readouterr().err
    (tmp_path / "one").write_text("1")
    assert again(f"data.path={tmp_path / 'one'}") == 0
    assert "have changed since this run" in capsys.readouterr().err
    (tmp_path / "one").unlink()
    assert again(f"data.path={tmp_path / 'one'}") == 0
    assert "can't be read any more" in capsys.readouterr().err
