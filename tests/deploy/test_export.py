"""Exported models answer as ours does, in a process where this package can't be imported."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from flask import Flask
from PIL import Image, ImageOps

import cil_func
from cil_func import config
from cil_func.__main__ import main
from cil_func.data.reading.pixels import Rules
from cil_func.deploy import export, inputs, model_card, portable
from cil_func.deploy.predictor import Predictor
from cil_func.runs import saved_model
from cil_func.runs.checkpoints import SavedModel

WITH_ONNX = all(map(export.find_spec, export.PACKAGES))
ALONE = """
import importlib.util, sys
assert importlib.util.find_spec("cil_func") is None
import numpy as np, torch
folder, pixels = sys.argv[1], np.load(sys.argv[1] + "/pixels.npy")
found = {"wa": torch.export.load(f"{folder}/card/model.pt2").module()(torch.from_numpy(pixels)).numpy()}
if importlib.util.find_spec("onnxruntime"):
    import onnxruntime
    session = onnxruntime.InferenceSession(f"{folder}/copy.onnx")
    found["icarl"] = session.run(["probabilities"], {"images": pixels})[0]
np.savez(f"{folder}/found.npz", **found)
assert not any(name.startswith("cil_func") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def folder(runs, tmp_path_factory):
    """What the command has written: card/ of one run, copy.onnx of the other if it can be made here."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["export", str(runs["wa"].directory), "--to", "hf", "--out", "card"]) == 0  # has a model.pt2
        assert main(["export", str(runs["icarl"].copy), "--to", "onnx"]) == (0 if WITH_ONNX else 2)
    return folder


def test_exported_models_answer_alone(runs, folder):
    """A batch of 7: the files are made from an example of 2."""
    pixels = runs["wa"].setup.experiment.test_images.pixels[:7]
    np.save(folder / "pixels.npy", pixels.numpy())
    command = [sys.executable, "-I", "-c", ALONE, str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    found = np.load(folder / "found.npz")
    assert len(found) == 1 + WITH_ONNX
    for name in found:
        expected = cil_func.load(runs[name].copy)(pixels).numpy()
        assert found[name].dtype == np.float32 and abs(found[name] - expected).max() < 1e-5, name


def test_the_server_of_the_readme_answers(runs, folder, monkeypatch):
    monkeypatch.chdir(folder / "card")
    text = (Path(export.__file__).parent / "README.md").read_text(encoding="utf-8")
    names = {"__name__": "server"}
    exec(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[-1], names)
    assert isinstance(names["app"], Flask)
    photo = next((runs["wa"].images / "test").glob("*/*.png"))
    answer = names["app"].test_client().post("/", data={"image": photo.open("rb")}).get_json()
    predictor = cil_func.load(runs["wa"].copy)
    row = predictor([photo])[0]
    assert answer["class"] == predictor.class_names[row.argmax()]
    assert abs(answer["probability"] - row.max().item()) < 1e-5
    turned = turned_photo(folder / "turned.png")
    answer = names["app"].test_client().post("/", data={"image": turned.open("rb")}).get_json()
    assert abs(answer["probability"] - predictor([turned])[0].max().item()) < 0.002


def turned_photo(path):
    """A photograph that isn't square, and that a viewer turns by a quarter."""
    exif, rows, columns = Image.Exif(), *np.mgrid[:40, :60]
    exif[0x0112] = 6
    Image.fromarray(np.stack([4 * columns, 6 * rows, 2 * rows], axis=-1).astype(np.uint8)).save(path, exif=exif)
    return path


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("resizes", [True, False])
def test_the_example_of_the_card_reads_a_photograph_as_predict_does(upright, resizes, runs, folder, tmp_path):
    predictor = cil_func.load(runs["wa"].copy)
    predictor = replace(predictor, reader=predictor.reader._replace(resizes=resizes, rules=Rules(upright=upright)))
    text = model_card.card(predictor, tmp_path)
    line = re.search(r"^image = (.*)$", text, re.MULTILINE)[1]
    photo = turned_photo(tmp_path / "photo.png")
    with contextlib.chdir(tmp_path):
        pixels = np.asarray(eval(line, {"Image": Image, "ImageOps": ImageOps}))
    if resizes:
        expected = predictor.reader.read([photo])[0][0].numpy()
        assert pixels.shape == expected.shape and abs(pixels.astype(int) - expected).max() <= 6
    else:
        assert pixels.shape == ((60, 40, 3) if upright else (40, 60, 3))


def test_the_folder_of_the_hub_can_be_loaded(runs, folder):
    """Its files name the classes and the results."""
    trained, folder = runs["wa"], folder / "card"
    again, predictor = cil_func.load(folder), cil_func.load(trained.copy)
    pixels = trained.setup.experiment.test_images.pixels
    assert torch.equal(again(pixels), predictor(pixels))
    config = json.loads((folder / "config.json").read_text())
    assert [config["id2label"][str(k)] for k in range(4)] == list(predictor.class_names)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    assert settings["crop_size"] == {"height": 8, "width": 8} and settings["image_mean"]
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    (entry,) = front["model-index"][0]["results"][0]["metrics"]
    assert entry["value"] == trained.results["last_accuracy"] and front["pipeline_tag"] == "image-classification"
    for name in ("Use", "Intended use and limits", "Classes", "Results", "Recipe", "Calibration", "Lineage"):
        assert f"\n## {name}\n" in card


def test_the_card_says_that_validation_images_were_measured(runs, tmp_path):
    shutil.copytree(runs["wa"].directory, tmp_path / "run")
    path = tmp_path / "run/results.json"
    results = json.loads(path.read_text())
    names = []
    for place in ("test", "validation"):
        results["config"]["data"]["tests_on"] = place
        path.write_text(json.dumps(results))
        front = yaml.safe_load(model_card.card(cil_func.load(runs["wa"].copy), tmp_path / "run").split("---\n")[1])
        names.append(front["model-index"][0]["results"][0]["metrics"][0]["name"])
    assert names[1] == names[0] + ", on validation images"


def test_the_module_is_the_model_in_float32(trained):
    """Of a batch of any size, and with gradients for its buffers left alone."""
    predictor = cil_func.load(trained.copy)
    module = portable.Portable(predictor)
    pixels = module.example(3)
    assert torch.allclose(module(pixels).double(), predictor(pixels), atol=1e-6)
    assert torch.equal(module.example(3), pixels) and pixels.shape == (3, 8, 8, 3)


def test_a_network_without_buffers_and_one_that_grows(runs):
    """The trees of a vision transformer and of several backbones come back from the module's buffers."""
    grown = [(method, "resnet20", 8) for method in ("der", "memo", "foster", "tagfex")]
    for method, backbone, size in (("wa", "timm:test_vit", 16), *grown):
        predictor = drawn(runs["wa"], method, backbone, size)
        module = portable.Portable(predictor)
        pixels = module.example(2)
        assert torch.allclose(module(pixels).double(), predictor(pixels), atol=1e-6), backbone
        assert not any("beside" in name for name in module.state_dict())  # which TagFex needs to go on learning alone


def drawn(trained, method, backbone, size):
    """A Predictor of a model with random weights, of two phases."""
    description = json.loads((trained.copy / "model.json").read_text())
    given = config.to_dict(config.load("digits", [f"method.name={method}", f"model.backbone={backbone}"]))
    description |= {"config": {table: given[table] for table in ("method", "model")}, "predict": "logits"}
    description["preprocessing"]["image_size"] = [size, size]
    network = saved_model.network(SavedModel({}, {}, None, description))
    model = network.expand(network.init(0, 2), 1, 2, 1)
    scorer = saved_model.scorer(SavedModel(model.params, model.state, None, description))
    return Predictor(scorer, inputs.reader_of(description["preprocessing"]))


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--to", "tflite"], 2, "argument --to: invalid choice: 'tflite' (choose from 'pt2', 'onnx', 'hf')"),
        (["--out", "."], 2, "--out .: it is a folder; give another name"),
        (["--to", "hf", "--out", "."], 2, "--out .: it holds other files than an export's; give another name"),
        (["--to", "hf", "--out", "file"], 2, "--out file: it is a file; give another name"),
        (["--out", "file"], 2, "--out file: only a file that ends in .pt2 is replaced; give another name"),
        (["--out", "no/where.pt2"], 2, "--out no/where.pt2: there is no folder no; make it, or give another name"),
        (["--to", "onnx"], 2, "--to onnx needs the packages onnx, onnxscript, onnxruntime; pip install onnx"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(trained, tmp_path, capsys, monkeypatch, words, status, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    (tmp_path / "file").touch()
    assert main(["export", str(trained.copy), *words]) == status
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"export: {message}") and err.count("\n") == 1


@pytest.mark.parametrize("other", ['{"model_type": "vit"}', None])
def test_another_model_from_the_hub_is_not_replaced(trained, tmp_path, capsys, other):
    """It has some of an export's files, and a run directory has others."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "preprocessor_config.json").write_text("{}")
    if other:
        (tmp_path / "theirs" / "model.json").write_text(other)
    for place in (tmp_path / "theirs", shutil.copytree(trained.copy, tmp_path / "run")):
        before = {path.name: path.read_bytes() for path in place.iterdir()}
        assert main(["export", str(trained.copy), "--to", "hf", "--out", str(place)]) == 2
        assert f"--out {place}: it holds other files than an export's" in capsys.readouterr().err
        assert {path.name: path.read_bytes() for path in place.iterdir()} == before


@pytest.mark.parametrize("at", ["config.json", "README.md", "calibration.safetensors"])
def test_an_interrupted_export_changes_nothing(calibrated, tmp_path, monkeypatch, capsys, at):
    """A folder that was there stays as it was; one that was not isn't made. The same command works afterwards."""
    before, write = tmp_path / "before", export.files.write_chunks
    shutil.copytree(calibrated / "card", before)
    old = {path.name: path.read_bytes() for path in before.iterdir()}

    def interrupted(path, chunks):
        if Path(path).name == at:
            raise KeyboardInterrupt
        write(path, chunks)

    for out in (before, tmp_path / "new"):
        with monkeypatch.context() as patch:
            patch.setattr(export.files, "write_chunks", interrupted)
            assert main(["export", str(calibrated / "run"), "--to", "hf", "--out", str(out)]) == 130
        assert [path.name for path in tmp_path.iterdir()] == ["before"]
        assert {path.name: path.read_bytes() for path in before.iterdir()} == old
    (tmp_path / ".new.export.tmp").mkdir()  # a killed export leaves one
    (tmp_path / ".new.export.tmp/README.md").mkdir()
    assert main(["export", str(calibrated / "run"), "--to", "hf", "--out", str(tmp_path / "new")]) == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(old)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before", "new"]
    capsys.readouterr()


@pytest.fixture(scope="module")
def calibrated(runs, tmp_path_factory):
    """run/, a copy of a run that is calibrated, and card/, its export."""
    folder = tmp_path_factory.mktemp("calibrated")
    shutil.copytree(runs["wa"].directory, folder / "run")
    assert main(["calibrate", str(folder / "run"), str(runs["wa"].images / "test")]) == 0
    assert main(["export", str(folder / "run"), "--to", "hf", "--out", str(folder / "card")]) == 0
    return folder


def test_an_export_over_an_older_one_keeps_nothing_of_its_model(calibrated, runs, tmp_path):
    """Files of other names stay, such as those of a clone of the hub's folder."""
    shutil.copytree(calibrated / "card", tmp_path / "card")
    (tmp_path / "card/notes.txt").touch()
    assert cil_func.load(tmp_path / "card").temperature != 1.0
    assert main(["export", str(runs["wa"].copy), "--to", "hf", "--out", str(tmp_path / "card")]) == 0
    assert cil_func.load(tmp_path / "card").temperature == 1.0
    assert "Not calibrated" in (tmp_path / "card/README.md").read_text()
    assert (tmp_path / "card/notes.txt").exists()


def test_into_the_current_folder(runs, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for _ in range(2):
        assert main(["export", str(runs["wa"].copy), "--to", "hf", "--out", "."]) == 0
        assert "model.json" in [path.name for path in Path().iterdir()]
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_paths_in_the_home_folder(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "run").symlink_to(runs["wa"].directory)
    assert main(["export", "~/run", "--to", "hf", "--out", "~/card"]) == 0
    assert "model-index" in (tmp_path / "card/README.md").read_text(encoding="utf-8")
    assert list((tmp_path / "here").iterdir()) == []


def test_other_answers_are_not_written(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export, "_CLOSE", 0.0)
    assert main(["export", str(runs["wa"].copy), "--out", str(tmp_path / "model.pt2")]) == 1
    assert "nothing is written" in capsys.readouterr().err and not (tmp_path / "model.pt2").exists()
    assert main(["export", str(runs["wa"].copy), "--to", "hf", "--out", str(tmp_path / "card")]) == 1
    assert list(tmp_path.iterdir()) == []
