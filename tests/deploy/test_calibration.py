"""Calibration and rejection, against SciPy, NumPy and arithmetic; the command calibrate and `predict --reject`."""

import json
import shutil
import unicodedata

import numpy as np
import pytest
import torch
from model_copies import changed, with_classes
from scipy.special import logsumexp
from scipy.special import softmax as scipy_softmax

import cil_func
from cil_func.__main__ import main
from cil_func.deploy import calibrate, calibration, model_card
from cil_func.deploy.calibration import Calibration, Reject
from cil_func.errors import CheckpointError
from cil_func.training import calibrating


def test_the_temperature_is_that_of_the_highest_likelihood():
    """Labels drawn from softmax(s / 3) have the temperature 3, up to the noise of 4,000 draws."""
    random = np.random.default_rng(0)
    scores = random.normal(0, 5, (4000, 6))
    labels = np.array([random.choice(6, p=row) for row in scipy_softmax(scores / 3, axis=1)])
    found = calibrating.fit_temperature(torch.from_numpy(scores), torch.from_numpy(labels))
    assert abs(found - 3) < 0.15

    def loss(temperature):
        return (logsumexp(scores / temperature, axis=1) - (scores / temperature)[np.arange(4000), labels]).mean()

    assert loss(found) <= min(loss(found * 1.01), loss(found / 1.01))


def test_strangeness_follows_its_formulas():
    logits = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    found = calibration.strangeness_of(logits, logits.softmax(1))
    assert found["logit"].tolist() == [-3, 0]
    assert np.allclose(found["energy"], -logsumexp(logits.numpy(), axis=1))
    assert np.allclose(found["probability"], 1 - scipy_softmax(logits.numpy(), axis=1).max(1), atol=1e-6)


def test_an_image_is_not_part_of_the_mean_that_it_is_measured_to():
    """Of the unit vectors a = (1, 0), b = (0, 1), c = (0.6, 0.8): |a - b|^2 = 2 and |a - c|^2 = 2 - 2 * 0.6."""
    features = torch.tensor([[2.0, 0.0], [0.0, 5.0], [0.6, 0.8], [3.0, 0.0]])
    found = calibration.distances_left_out(features, torch.tensor([0, 0, 1, 1]), 2)
    assert torch.allclose(found, torch.tensor([2.0, 2.0, 0.8, 0.8], dtype=torch.float64))


def test_rejection_asks_every_class_or_the_nearest():
    """Of class 0 the held-out distances 0, 1, 2, 3, 4, of class 1 ten times that; quantile 0.75: 3 and 30."""
    own = torch.tensor([0.0, 1, 2, 3, 4, 0, 10, 20, 30, 40], dtype=torch.float64)
    labels = torch.tensor([0] * 5 + [1] * 5)
    held_out = Calibration(1.0, labels, {"distance": own, "energy": own}, torch.zeros(2, 3), {})
    distances = torch.tensor([[3.0, 99], [3.5, 31], [99, 30], [99, 30.5], [3.5, 20]], dtype=torch.float64)
    known = calibration.is_known(held_out, {"distance": distances}, Reject(0.75, "distance"))
    assert known.tolist() == [True, False, True, False, True]
    known = calibration.is_known(held_out, {"distance": distances}, Reject(0.75))  # only the nearest class counts
    assert known.tolist() == [True, False, True, False, False]
    limit = np.quantile(own.numpy(), 0.75)
    energies = torch.tensor([limit, limit + 0.1], dtype=torch.float64)
    assert calibration.is_known(held_out, {"energy": energies}, Reject(0.75, "energy")).tolist() == [True, False]


@pytest.fixture
def calibrated(trained, tmp_path, capsys):
    """A copy of a run that was calibrated on its test images, one of whose classes it is told not to know."""
    copy, folder = shutil.copytree(trained.copy, tmp_path / "run"), tmp_path / "photos"
    shutil.copytree(trained.images / "test", folder)
    shutil.copytree(trained.images / "test/class000", folder / "stranger")
    assert main(["calibrate", str(copy), str(folder)]) == 0
    return copy, folder, capsys.readouterr().out.splitlines()


def test_a_folder_above_those_of_the_classes_is_named_with_the_one_that_fits(trained, capsys):
    assert main(["calibrate", str(trained.copy), str(trained.images)]) == 3
    fits = f"such as 'class000'; give one with a folder for each class, maybe {trained.images / 'test'}"
    assert f"{trained.images}: no folder in it is called as a class, {fits}\n" in capsys.readouterr().err


def test_calibrating_changes_probabilities_and_no_prediction(trained, calibrated):
    copy, folder, lines = calibrated
    before, after = cil_func.load(trained.copy), cil_func.load(copy)
    pixels = trained.setup.experiment.test_images.pixels
    assert torch.equal(before(pixels).argmax(1), after(pixels).argmax(1))
    scores = before.scorer.scores(pixels).double().numpy()
    assert np.allclose(after(pixels), scipy_softmax(scores / after.temperature, axis=1), atol=1e-9)
    report = after.calibration.report
    assert (report["images"], report["unknown_images"]) == (16, 4)
    assert lines[0].startswith(f"temperature {after.temperature:.3f}, from 16 images") and len(lines) == 8
    assert f"{100 * report['ece_after']:.1f} % after" in lines[1]
    text = f"## Calibration\n\nTemperature {after.temperature:.3f}, fitted on 16 images"
    assert text in model_card.card(after, copy) and "\nNot calibrated: " in model_card.card(before, copy)
    if after.saved.means is None:
        outputs = calibrate.read(before, str(folder))
        own = outputs.at(outputs.labels >= 0)
        units = own.features.double().numpy()
        units /= np.linalg.norm(units, axis=1, keepdims=True)
        others = units[(own.labels == own.labels[0]).numpy()][1:].mean(0)
        others /= np.linalg.norm(others)
        first = ((units[0] - others) ** 2).sum()
        assert np.isclose(after.calibration.strangeness["distance"][0].item(), first)


def test_one_calibrated_model_beside_one_that_is_not_is_told(trained, calibrated, capsys):
    copy = calibrated[0]
    for runs, lines in (((trained.copy, copy), 1), ((copy, copy), 0)):
        assert main(["compare", *map(str, runs), "--data", str(trained.images)]) == 0
        said = [line for line in capsys.readouterr().err.splitlines() if "calibrated" in line]
        assert len(said) == lines and all(f"only {copy} is calibrated" in line for line in said)


def test_predict_answers_unknown(trained, calibrated, capsys):
    copy, folder, _ = calibrated
    words = ["predict", str(copy), str(folder), "--json"]
    assert main([*words, "--reject", "1", "--reject-by", "energy"]) == 0  # nothing is stranger than all held-out images
    assert all(json.loads(line)["known"] for line in capsys.readouterr().out.splitlines())
    assert main([*words, "--reject", "0.5", "--reject-by", "energy"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    predictor = cil_func.load(copy)
    files = [each["path"] for each in found]
    energies = predictor.scorer.outputs(predictor.reader.read(files)[0])[0].double().logsumexp(1).neg()
    limit = np.quantile(predictor.calibration.strangeness["energy"], 0.5)
    assert [each["known"] for each in found] == (energies.numpy() <= limit).tolist()
    assert {each["class"] is None for each in found if not each["known"]} == {True}
    assert main(["predict", str(copy), str(folder), "--reject", "0.1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    features = predictor.scorer.outputs(predictor.reader.read(files)[0])[1].double().numpy()
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    squares = ((units[:, None] - predictor.calibration.means.numpy()[None]) ** 2).sum(2)
    own, labels = (
        part.numpy() for part in (predictor.calibration.strangeness["distance"], predictor.calibration.labels)
    )
    limits = np.array([np.quantile(own[labels == k], 0.1) for k in range(4)])
    assert [line.endswith("\tunknown") for line in lines] == (squares.min(1) > limits[squares.argmin(1)]).tolist()


def test_mistakes_are_one_line(trained, calibrated, capsys, tmp_path):
    copy, folder, _ = calibrated
    photo = str(next(folder.glob("*/*.png")))
    plain = str(trained.copy)
    for words, status, message in (
        (["predict", plain, photo, "--reject", "0.9"], 2, "give some: python -m cil_func calibrate RUN FOLDER"),
        (["predict", str(copy), photo, "--reject", "95"], 2, "predict: --reject 95: give a share above 0, at most 1"),
        (["calibrate", str(copy), str(tmp_path / "nothing")], 3, "can't be listed (No such file or directory)"),
        (["calibrate", str(copy), str(folder / "class000")], 3, "'class001' 0"),
    ):  # fmt: skip
        assert main(words) == status
        out, err = capsys.readouterr()
        assert out == "" and message in err and err.count("\n") == 1
    shutil.copy(copy / calibration.NAME, tmp_path / calibration.NAME)
    (tmp_path / calibration.NAME).write_bytes(b"x")
    with pytest.raises(CheckpointError, match="it is damaged"):
        calibration.load(tmp_path, model_sha256="x")
    with pytest.raises(CheckpointError, match="it is of another model or version; calibrate again"):
        calibration.load(copy, model_sha256="another")


def test_a_directory_whose_name_is_no_utf8(trained, calibrated, tmp_path):
    copy, _, _ = calibrated
    odd = shutil.copytree(copy, tmp_path / "odd\udcff")
    found, known = (cil_func.load(each).calibration for each in (odd, copy))
    assert found.temperature == known.temperature and found.report == known.report
    assert torch.equal(found.means, known.means) and torch.equal(found.labels, known.labels)


def test_a_folder_may_be_named_in_the_other_unicode_form(runs, tmp_path):
    """macOS and Linux write the same name in two forms; training takes both."""
    names = ["käse", *(f"class00{number}" for number in (1, 2, 3))]
    new = changed(runs["wa"].directory, tmp_path / "new", lambda saved: with_classes(saved, names))
    shutil.copytree(runs["wa"].images / "test", tmp_path / "images")
    (tmp_path / "images/class000").rename(tmp_path / "images" / unicodedata.normalize("NFD", "käse"))
    assert main(["calibrate", str(new), str(tmp_path / "images")]) == 0
    assert cil_func.load(new).calibration.report["images"] == 16


def test_an_export_is_not_calibrated_beside_its_files(trained, tmp_path, capsys):
    """They would go on with the old temperature."""
    assert main(["export", str(trained.copy), "--to", "hf", "--out", str(tmp_path / "card")]) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "card").iterdir()}
    capsys.readouterr()
    assert main(["calibrate", str(tmp_path / "card"), str(trained.images / "test")]) == 2
    assert "is an export; calibrate the run that it was made of" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "card").iterdir()} == before
