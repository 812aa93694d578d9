"""Exported models answer as ours does, in a process where this package can't be imported."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import cil_func
from cil_func.__main__ import main
from cil_func.deploy import export, portable

ALONE = """
import importlib.util, sys
assert importlib.util.find_spec("cil_func") is None
import numpy as np, torch
folder, pixels = sys.argv[1], np.load(sys.argv[2])
found = {name: torch.export.load(f"{folder}/{name}").module()(torch.from_numpy(pixels)).numpy()
         for name in ("copy.pt2", "card/model.pt2")}
if importlib.util.find_spec("onnxruntime"):
    import onnxruntime
    session = onnxruntime.InferenceSession(f"{folder}/copy.onnx")
    found["copy.onnx"] = session.run(["probabilities"], {"images": pixels})[0]
np.savez(f"{folder}/found.npz", **found)
assert not any(name.startswith("cil_func") for name in sys.modules)
"""


def test_exported_models_answer_alone(trained, tmp_path, capsys, monkeypatch):
    """A batch of 7: the files are made from an example of 2."""
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(trained.copy)]) == 0  # into ./copy.pt2
    assert main(["export", str(trained.directory), "--to", "hf", "--out", "card"]) == 0
    with_onnx = all(map(export.find_spec, export._PACKAGES))
    assert main(["export", str(trained.copy), "--to", "onnx"]) == (0 if with_onnx else 2)
    capsys.readouterr()
    pixels = trained.setup.experiment.test_images.pixels[:7]
    np.save(tmp_path / "pixels.npy", pixels.numpy())
    command = [sys.executable, "-I", "-c", ALONE, str(tmp_path), str(tmp_path / "pixels.npy")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    predictor, found = cil_func.load(trained.copy), np.load(tmp_path / "found.npz")
    expected = predictor(pixels).numpy()
    assert len(found) == 2 + with_onnx
    for name in found:
        assert found[name].dtype == np.float32 and abs(found[name] - expected).max() < 1e-5, name
    check_card(trained, tmp_path / "card", predictor)


def check_card(trained, folder, predictor):
    """The folder of the hub's layout can be read by `load`; its files name the classes and the results."""
    again = cil_func.load(folder)
    pixels = trained.setup.experiment.test_images.pixels
    assert torch.equal(again(pixels), predictor(pixels))
    config = json.loads((folder / "config.json").read_text())
    assert [config["id2label"][str(k)] for k in range(4)] == list(predictor.class_names)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    assert settings["crop_size"] == {"height": 8, "width": 8} and settings["image_mean"]
    card = (folder / "README.md").read_text()
    yaml = pytest.importorskip("yaml")
    front = yaml.safe_load(card.split("---\n")[1])
    (entry,) = front["model-index"][0]["results"][0]["metrics"]
    assert entry["value"] == trained.results["last_accuracy"] and front["pipeline_tag"] == "image-classification"
    for name in ("Use", "Intended use and limits", "Classes", "Results", "Recipe", "Lineage"):
        assert f"\n## {name}\n" in card


def test_the_module_is_the_model_in_float32(trained):
    """Of a batch of any size, and with gradients for its buffers left alone."""
    predictor = cil_func.load(trained.copy)
    module = portable.Portable(predictor)
    pixels = module.example(3)
    assert torch.allclose(module(pixels).double(), predictor(pixels), atol=1e-6)
    assert torch.equal(module.example(3), pixels) and pixels.shape == (3, 8, 8, 3)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--to", "tflite"], 2, "argument --to: invalid choice: 'tflite' (choose from 'pt2', 'onnx', 'hf')"),
        (["--out", "."], 2, "--out .: it is a folder; give another name"),
        (["--to", "hf", "--out", "file"], 2, "--out file: it is a file; give another name"),
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


def test_other_answers_are_not_written(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export, "_CLOSE", 0.0)
    assert main(["export", str(trained.copy), "--out", str(tmp_path / "model.pt2")]) == 1
    assert "nothing is written" in capsys.readouterr().err and not (tmp_path / "model.pt2").exists()
