"""`cil_func.load`: its answers are those that training measured, for files, Pillow images and arrays alike."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cil_func
from cil_func import experiment, metrics, tree
from cil_func.__main__ import main
from cil_func.errors import CheckpointError, ConfigError, DataError
from cil_func.training import evaluation


def measured_scores(trained):
    """The scores by which the run itself judges its last phase, and the labels, in the run's order of test images."""
    made, saved = trained.setup.experiment, cil_func.load(trained.directory).saved
    rows = torch.cat([phase.test_rows for phase in made.scenario.phases])
    model = experiment.Model(saved.params, saved.state)
    features = made.forward.features(model, made.test_images, rows, when="here")
    logits = made.network.outputs(saved.params, features, made.classes(made.scenario.phases[-1])).logits
    scores = evaluation.scores(logits, features, means=saved.means, predict=made.method.predict)
    return scores, made.scenario.test_labels[rows], made.test_images.pixels[rows]


def files_of(trained):
    """The test files in the order of `measured_scores`."""
    files = sorted((trained.images / "test").glob("*/*.png"))
    return [files[row] for phase in trained.setup.experiment.scenario.phases for row in phase.test_rows]


def test_the_answers_are_those_of_training_to_the_bit(trained):
    """From the two files of a copied directory."""
    scores, labels, pixels = measured_scores(trained)
    predictor = cil_func.load(trained.copy)
    expected = (scores.double()).softmax(dim=1)
    files = files_of(trained)
    found = predictor(files)
    assert torch.equal(found, expected)
    assert torch.equal(predictor(pixels), expected) and torch.equal(predictor(pixels.numpy()), expected)
    assert torch.equal(predictor([Image.open(file) for file in files]), expected)
    mixed = [str(files[0]), Image.open(files[1]), *pixels[2:4], pixels[4].numpy(), *files[5:]]
    assert torch.equal(predictor(mixed), expected)
    assert metrics.accuracy(found, labels) == trained.results["last_accuracy"]
    assert predictor.class_names == tuple(trained.setup.experiment.class_names[k] for k in
                                          trained.setup.experiment.scenario.class_order)  # fmt: skip


def test_probabilities_of_class_means_follow_their_formula(trained):
    """p_k ~ exp(-d_k^2), d_k the distance of the unit feature to mean k, in plain numpy."""
    predictor = cil_func.load(trained.copy)
    if predictor.saved.means is None:
        return
    _, _, pixels = measured_scores(trained)
    features = predictor.apply(predictor.params, predictor.state, predictor.preprocess(pixels))[1].double().numpy()
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    squares = ((features[:, None] - predictor.saved.means.numpy()[None]) ** 2).sum(2)
    expected = np.exp(-squares) / np.exp(-squares).sum(1, keepdims=True)
    assert np.allclose(predictor(pixels).numpy(), expected, atol=1e-6)


def test_apply_is_the_pure_forward_function(trained):
    predictor = cil_func.load(trained.copy)
    _, _, pixels = measured_scores(trained)
    images = predictor.preprocess(pixels)
    logits, features, state = predictor.apply(predictor.params, predictor.state, images)
    ours, theirs = predictor.scorer.outputs(pixels)
    assert torch.allclose(logits, ours) and torch.allclose(features, theirs)
    assert all(torch.equal(a, b) for a, b in zip(*map(tree.leaves, (state, predictor.state)), strict=True))
    gradient = torch.func.grad(lambda params: predictor.apply(params, state, images)[0].sum())
    rows = gradient(predictor.params)["classifier"]
    assert torch.allclose(rows["weight"], features.sum(0).expand_as(rows["weight"]), rtol=1e-4)  # d(w f + b)/dw = f
    _, _, moved = predictor.apply(predictor.params, predictor.state, images, train=True)
    assert not all(map(torch.equal, tree.leaves(moved), tree.leaves(predictor.state)))


def test_flips_average_an_image_and_its_mirror_image(trained):
    predictor = cil_func.load(trained.copy)
    _, _, pixels = measured_scores(trained)
    expected = (predictor(pixels) + predictor(pixels.flip(2))) / 2
    found = predictor(pixels, flips=True)
    assert torch.equal(found, expected) and not torch.equal(found, predictor(pixels))
    assert torch.allclose(found, predictor(pixels.flip(2), flips=True))


def test_files_are_read_as_in_training(trained, tmp_path):
    """Turned by EXIF's orientation, with white behind what is transparent; Pillow images alike."""
    predictor = cil_func.load(trained.copy)
    array = np.zeros((8, 8, 3), dtype=np.uint8)
    array[:2] = 255
    turned, exif = tmp_path / "turned.png", Image.Exif()
    exif[0x0112] = 6  # the viewer turns it a quarter clockwise
    Image.fromarray(array).save(turned, exif=exif)
    clear = tmp_path / "clear.png"
    Image.fromarray(np.dstack([array, np.full((8, 8), 0, dtype=np.uint8)])).save(clear)
    expected = np.stack([np.rot90(array, -1), np.full_like(array, 255)])
    for given in ([turned, clear], [Image.open(turned), Image.open(clear)]):
        pixels, unread = predictor.reader.read(given)
        assert np.array_equal(pixels.numpy(), expected) and not unread


def test_pixels_that_cannot_be_written_are_taken_without_a_warning(trained, recwarn):
    """As of a Pillow image."""
    predictor = cil_func.load(trained.copy)
    _, _, pixels = measured_scores(trained)
    array = pixels.numpy().copy()
    array.setflags(write=False)
    assert torch.equal(predictor(array), predictor(pixels)) and not recwarn.list


def test_many_images_are_read_in_parts(trained, monkeypatch):
    predictor = cil_func.load(trained.copy)
    _, _, pixels = measured_scores(trained)
    read, original = [], type(predictor.reader).read
    counted = lambda self, some: read.append(len(some)) or original(self, some)  # noqa: E731
    monkeypatch.setattr(type(predictor.reader), "read", counted)
    size = predictor.scorer.forward.batch_size
    many = pixels[torch.arange(size + 3) % len(pixels)]
    assert predictor(many).shape == (size + 3, 4) and read == [size, 3]
    assert predictor([]).shape == (0, 4)


def test_mistakes_are_one_line(trained, tmp_path):
    predictor = cil_func.load(trained.copy)
    empty, text = tmp_path / "empty.png", tmp_path / "text.png"
    empty.touch()
    text.write_text("no image")
    with pytest.raises(DataError, match=r"^\(1\) .*empty.png: the file is empty; \(2\) .*text.png: no image"):
        predictor([empty, files_of(trained)[0], text])
    with pytest.raises(DataError, match=r"text.png: no image"):  # no image at all can be read
        predictor(text)
    for wrong, message in (
        (torch.zeros(8, 8, 3, dtype=torch.uint8), r"give \(B, H, W, 3\), one image as images\[None\]"),
        (torch.zeros(2, 8, 8, 3), "images are float32; give the pixels as uint8"),
        ([np.zeros((8, 8), dtype=np.uint8)], r"an image of shape \(8, 8\); give pixels \(H, W, 3\)"),
        (3, "images: int; give a list of paths"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor(wrong)


def test_a_gpu_that_is_passed_over_is_told_once(trained, capsys, monkeypatch):
    monkeypatch.setattr("cil_func.training.gpus.passed_over", lambda: "no GPU is used")
    monkeypatch.setattr("cil_func.deploy.predictor._TOLD", set())
    said = []
    for device in ("cpu", "auto", "auto"):
        cil_func.load(trained.copy, device=device)
        said.append(capsys.readouterr().err)
    assert said == ["", "warning: no GPU is used\n", ""]


def test_what_is_no_finished_run_is_refused(trained, tmp_path):
    with pytest.raises(ConfigError, match="there is no such directory"):
        cil_func.load(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"no run directory: it holds no model.json"):
        cil_func.load(tmp_path)
    with pytest.raises(ConfigError, match='device: "gpu"; give "auto", "cpu" or "cuda"'):
        cil_func.load(trained.copy, device="gpu")
    begun = shutil.copytree(trained.directory, tmp_path / "begun")
    (begun / "model.json").unlink()
    with pytest.raises(CheckpointError, match=r"the run is not finished .*the command that began it goes on with it"):
        cil_func.load(begun)
    broken = shutil.copytree(trained.copy, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged"):
        cil_func.load(broken)
    incomplete = shutil.copytree(trained.copy, tmp_path / "incomplete")
    description = json.loads((incomplete / "model.json").read_text())
    del description["preprocessing"]["mean"]
    (incomplete / "model.json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=r"model.json is damaged \('mean'\)"):
        cil_func.load(incomplete)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda told: told.pop("classes"), "model.json is damaged ('classes'); put it back from a copy"),
        (lambda told: told.pop("predict"), "model.json is damaged ('predict'); put it back from a copy"),
        (lambda told: told["classes"].pop(), "model.json is damaged (its phases don't bring 3 classes); put it back"),
        (lambda told: told["classes"][0].update(name=7), "model.json is damaged (7 is no text); put it back"),
        (lambda told: told["config"]["method"].update(newkey=1),
         "model.json holds what this version doesn't know (method.newkey: unknown key; "),
    ],
)  # fmt: skip
def test_a_model_of_another_version_or_with_a_part_missing_is_one_line(trained, tmp_path, capsys, change, words):
    new = shutil.copytree(trained.copy, tmp_path / "new")
    description = json.loads((new / "model.json").read_text())
    change(description)
    (new / "model.json").write_text(json.dumps(description))
    assert main(["predict", str(new), str(files_of(trained)[0])]) == 5
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"predict: {new}: {words}") and err.count("\n") == 1


def test_a_run_that_cannot_be_entered_is_one_line(trained, tmp_path, capsys, monkeypatch):
    long = "x" * 300
    assert main(["predict", long, str(files_of(trained)[0])]) == 2
    assert capsys.readouterr().err == (
        f"predict: {long}: it can't be entered (File name too long); give the directory of a finished run\n"
    )
    assert main(["report", long]) == main(["report", long, long]) == 2
    assert main(["predict", "~there_is_no_such_user", str(files_of(trained)[0])]) == 2
    assert "~there_is_no_such_user: there is no such directory" in capsys.readouterr().err
    exists = Path.exists

    def refused(path):  # as in a folder without the right to enter it, which root has everywhere
        if path.parent == tmp_path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return exists(path)

    monkeypatch.setattr(Path, "exists", refused)
    assert main(["export", str(tmp_path)]) == 2
    assert "it can't be entered (Permission denied); give " in capsys.readouterr().err


def test_a_formula_is_imported_without_torch():
    code = "import sys, cil_func; print(callable(cil_func.load), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(cil_func.__file__).parents[1], capture_output=True)
    assert done.stdout.split() == [b"True", b"False"]
