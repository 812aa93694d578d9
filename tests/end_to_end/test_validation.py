"""Whole runs with data.validation: they are those of a data set in which these images are the test images."""

import json
import os
import shutil
import signal

import launching
import one_conv
import pytest
import tiny
from PIL import Image, ImageOps

import train
from cil_func import config
from cil_func.runs import checkpoints, planning, saver, setup

pytestmark = pytest.mark.usefixtures("shallow")
SETTINGS = ("run.precision=float64", "data.increment=2", "optim.epochs=2", "optim.batch_size=8", "memory.size=8",
            "optim.eval_every_epochs=1", f"model.backbone={one_conv.NAME}")  # fmt: skip
KEPT = ("data.validation=0.25",)


def run(directory, *more, folder=None):
    settings = tiny.settings(*SETTINGS, *more, folder=folder or tiny.images(4, 8))
    return train.main([*(word for each in settings for word in ("--set", each)), "--out", str(directory)])


def results(directory):
    found = json.loads((directory / "results.json").read_text())
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found["phases"]], found


def weights(directory):
    return checkpoints.load_model(directory).description["sha256"]


def evaluations(directory):
    events = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [(each["logits_top1"], each.get("on")) for each in events if each["event"] == "evaluation"]


@pytest.fixture(scope="module")
def ready():
    return setup.build(config.load("digits", tiny.settings(*SETTINGS, *KEPT, folder=tiny.images(4, 8))))


@pytest.fixture(scope="module")
def moved(tmp_path_factory, ready, shallow):
    """A run on a copy of the images in which those of validation are the test images."""
    folder = tmp_path_factory.mktemp("moved")
    shutil.copytree(tiny.images(4, 8), folder / "images")
    shutil.rmtree(folder / "images/test")
    for phase in ready.experiment.scenario.phases:
        for row in phase.validation_rows.tolist():
            file = folder / "images" / ready.train_files[row]
            target = folder / "images/test" / file.parent.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)
    assert run(folder / "run", folder=folder / "images") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def kept(tmp_path_factory, shallow):
    directory = tmp_path_factory.mktemp("kept") / "run"
    assert run(directory, *KEPT) == 0
    return directory


def test_the_images_are_out_of_training_and_memory_and_measured_as_test_images_are(kept, moved):
    assert weights(kept) == weights(moved)
    (rows, found), (expected, whole) = results(kept), results(moved)
    for row, other in zip(rows, expected, strict=True):
        of_run = ("phase", "gamma", "memory_size", "memory_bytes", "calibration")
        assert row["validation"] == {key: value for key, value in other.items() if key not in of_run}
        assert (row["calibration"]["temperature"] or 0) > 0 and other["calibration"]["temperature"] is None
        assert (row["gamma"], row["memory_size"]) == (other["gamma"], other["memory_size"])
    assert found["validation"]["average_incremental_accuracy"] == whole["average_incremental_accuracy"]
    assert found["validation"]["last_accuracy"] == whole["last_accuracy"]
    assert "validation" not in whole


def test_between_epochs_the_validation_images_are_looked_at(kept, moved):
    assert [value for value, _ in evaluations(kept)] == [value for value, _ in evaluations(moved)]
    assert {on for _, on in evaluations(kept)} == {"validation"} and {on for _, on in evaluations(moved)} == {None}


def test_all_accuracies_may_be_on_validation_images_alone(moved, tmp_path, capsys):
    assert run(tmp_path / "run", *KEPT, "data.tests_on=validation") == 0
    assert weights(tmp_path / "run") == weights(moved) and results(tmp_path / "run")[0] == results(moved)[0]
    assert {on for _, on in evaluations(tmp_path / "run")} == {"validation"}
    assert "\nall of it on validation images; the test images are unseen\n" in capsys.readouterr().out


def test_a_run_of_the_first_phase_is_the_beginning_of_the_whole_one(kept, tmp_path, capsys):
    assert run(tmp_path / "run", *KEPT, "data.phases=1") == 0
    rows, found = results(tmp_path / "run")
    out = capsys.readouterr().out
    assert f"\nlast on validation images     {found['validation']['last_accuracy']:5.1f} %\n" in out
    assert "the test images are unseen" not in out
    assert rows == results(kept)[0][:1] and found["num_classes"] == 2 and len(found["class_names"]) == 2
    whole = {each["name"] for each in checkpoints.load_model(kept).description["classes"][:2]}
    assert {each["name"] for each in checkpoints.load_model(tmp_path / "run").description["classes"]} == whole
    flags = ["--extend", str(tmp_path / "run"), "--set", f"data.path={tiny.images(4, 8)}", "--out", str(tmp_path / "b")]
    assert train.main(flags) == 2
    assert "only the first 1 phases of its data (data.phases)" in capsys.readouterr().err


def test_a_stopped_run_goes_on_to_the_same_results(kept, tmp_path, monkeypatch):
    call, passed = saver.CheckpointSaver.at_border, []

    def faulty(self, make, boundary):
        passed.append(boundary)
        if len(passed) == 10:  # in phase 1: phase 0 has 6 steps and three borders
            os.kill(os.getpid(), signal.SIGTERM)
        call(self, make, boundary)

    with monkeypatch.context() as patch:
        patch.setattr(saver.CheckpointSaver, "at_border", faulty)
        assert run(tmp_path / "run", *KEPT) == 143
    assert launching.status(tmp_path / "run")["state"] == "stopped"
    assert run(tmp_path / "run", *KEPT) == 0
    assert weights(tmp_path / "run") == weights(kept) and results(tmp_path / "run")[0] == results(kept)[0]


def test_a_run_that_extends_one_with_validation_has_the_test_images_alone(kept, tmp_path):
    names = [each["name"] for each in checkpoints.load_model(kept).description["classes"]]
    for split in ("train", "test"):
        for name in names[:2]:
            new = shutil.copytree(tiny.images(4, 8) / split / name, tmp_path / "new" / split / f"new {name}")
            for file in new.iterdir():
                ImageOps.mirror(Image.open(file)).save(file)
    flags = ["--extend", str(kept), "--set", f"data.path={tmp_path / 'new'}", "--out", str(tmp_path / "run")]
    assert train.main([*flags, "--set", "data.validation=0.1"]) == 2
    assert train.main([*flags, "--set", "optim.epochs=1"]) == 0
    rows, found = results(tmp_path / "run")
    assert len(rows) == 3 and "validation" not in rows[2] and "validation" not in found


def test_the_plan_counts_them(ready):
    text = planning.describe(ready)
    assert "8 training images are kept for validation, 4 a phase" in text
    assert text.splitlines()[4].split()[:5] == ["0", "2", "2", "12", "0"]  # 16 images of phase 0 without 4
