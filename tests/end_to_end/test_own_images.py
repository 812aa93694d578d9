"""Folders of one's own images: the preset for them, what is said of them, and whether they are still the same."""

import json
import os
import shutil

import interrupts
import numpy as np
import pytest
from PIL import Image

import train

TINY = [
    "run.compile=false", "run.threads=1", "run.precision=float32", "model.backbone=resnet20", "data.image_size=8",
    "optim.epochs=1", "optim.batch_size=4",
]  # fmt: skip



def make_folder(root, num_classes, seed=0):
    """3 training images and 1 test image of each class."""
    draw = np.random.default_rng(seed)
    for split, count in (("train", 3), ("test", 1)):
        for name in range(num_classes):
            (root / split / f"class {name}").mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (9, 10, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / f"class {name}" / f"{number}.png")
    return root


def run(images, directory, *more, config="folder"):
    flags = [flag for word in (f"data.path={images}", *TINY, *more) for flag in ("--set", word)]
    return train.main(["--config", config, *flags, "--out", str(directory)])


def results_of(directory):
    return json.loads((directory / "results.json").read_text())


def events_of(directory, kind):
    events = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == kind]


@pytest.mark.parametrize(("num_classes", "phases"), [(2, [2]), (3, [2, 1])])
def test_the_preset_works_from_two_classes_on(num_classes, phases, tmp_path, capsys):
    images = make_folder(tmp_path / "images", num_classes)
    assert run(images, tmp_path / "run") == 0
    found = results_of(tmp_path / "run")
    assert [row["num_new"] for row in found["phases"]] == phases
    assert found["config"]["data"]["increment"] == -(-num_classes // 5)  # "auto" is resolved
    model = json.loads((tmp_path / "run" / "model.json").read_text())
    assert model["preprocessing"]["mean"] != [0.5071, 0.4865, 0.4409]  # CIFAR's
    assert not capsys.readouterr().err
    assert run(images, tmp_path / "run") == 0  # "auto" is what it became
    assert "holds this run, finished" in capsys.readouterr().out


def test_the_default_directory_of_a_preset_that_needs_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = train.parse(["--config", "folder", "--set", "data.path=x"])
    directory = train.default_directory(options, train.configuration.load("folder", options.set))
    assert directory.parent.name == "runs" and directory.name.startswith("folder-")


def test_what_is_odd_about_the_images_is_in_the_log_and_in_the_results(tmp_path, capsys):
    images = make_folder(tmp_path / "images", 2)
    for number in range(4):
        (images / "train" / "class 0" / f"{number}.heic").write_bytes(b"of a phone")
    assert run(images, tmp_path / "run") == 0
    line = "4 files in train/ were not used: 4 .heic"
    assert results_of(tmp_path / "run")["data_warnings"] == [line]
    assert [event["message"] for event in events_of(tmp_path / "run", "warning")] == [line]
    assert f"warning: {line}" in capsys.readouterr().out
    flags = [flag for word in (f"data.path={images}", *TINY) for flag in ("--set", word)]
    assert train.main(["--config", "folder", *flags, "--dry-run"]) == 0
    assert f"warning: {line}" in capsys.readouterr().out


def test_an_image_folder_without_its_name_is_refused(tmp_path, capsys):
    assert train.main(["--set", f"data.path={tmp_path}", "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("train.py: data.path: ") and 'data.name = "image_folder"' in told and told.count("\n") == 1


def test_mistakes_in_the_classes_and_in_the_folder_are_told_together(tmp_path, capsys):
    images = make_folder(tmp_path / "images", 2)
    (images / "train" / "class 1" / "0.png").write_bytes(b"")
    assert run(images, tmp_path / "run", "data.increment=5", 'data.class_order=["class 0", "class 9"]') == 3
    told = capsys.readouterr().err
    for part in ("data.increment = 5", "'class 9', which is no class", "train/class 1/0.png: the file is empty"):
        assert part in told
    assert told.count("\n") == 1


def test_a_key_without_effect_is_one_line_on_stderr_and_in_the_log(tmp_path, capsys):
    images = make_folder(tmp_path / "images", 2)
    assert run(images, tmp_path / "run", "method.name=finetune", "memory.size=9") == 0
    line = 'memory.size has no effect with method.name = "finetune"'
    assert capsys.readouterr().err == f"train.py: warning: {line}\n"
    assert [event["message"] for event in events_of(tmp_path / "run", "warning")] == [line]
    flags = ["--set", "method.name=finetune", "--set", "memory.size=9"]
    assert train.main([*flags, "--print-config"]) == 0
    assert capsys.readouterr().err == f"train.py: warning: {line}\n"


# --- The same images, later


@pytest.fixture
def finished(tmp_path, capsys):
    """(folder of images, run directory) of a finished run."""
    images = make_folder(tmp_path / "images", 2)
    assert run(images, tmp_path / "run") == 0
    capsys.readouterr()
    return images, tmp_path / "run"


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_finished_run_says_in_one_line_that_its_images_have_changed(finished, capsys):
    images, directory = finished
    before, file = contents(directory), images / "test" / "class 0" / "0.png"
    pixels = np.asarray(Image.open(file)).copy()
    pixels[0] = 255 - pixels[0]
    Image.fromarray(pixels).save(file)
    assert run(images, directory) == 0
    printed = capsys.readouterr()
    assert "holds this run, finished" in printed.out
    assert printed.err.startswith(f"train.py: warning: the images in {images} have changed since this run; ")
    assert printed.err.count("\n") == 1
    assert contents(directory) == before


def test_a_finished_run_whose_files_were_only_touched_or_moved_says_nothing(finished, capsys):
    images, directory = finished
    os.utime(images / "test" / "class 0" / "0.png")
    assert run(images, directory) == 0
    images.rename(images.parent / "elsewhere")
    assert run(images.parent / "elsewhere", directory) == 0
    assert not capsys.readouterr().err


def test_a_finished_run_whose_images_are_gone_still_prints_its_table(finished, capsys):
    images, directory = finished
    shutil.rmtree(images)
    assert run(images, directory) == 0
    printed = capsys.readouterr()
    assert "finished" in printed.out and printed.err.count("\n") == 1 and "can't be read any more" in printed.err


def test_another_folder_of_other_images_is_another_run(finished, tmp_path, capsys):
    images, directory = finished
    before, other = contents(directory), make_folder(tmp_path / "other", 2, seed=1)
    assert run(other, directory) == 2
    assert f"data.path is {images} there and {other} here" in capsys.readouterr().err
    assert contents(directory) == before


def stopped(images, directory, monkeypatch):
    """A run that is interrupted in the evaluation of its second phase."""
    with monkeypatch.context() as patch:
        interrupts.in_evaluation(patch)
        assert run(images, directory) == 130


def test_a_run_goes_on_where_its_folder_has_moved_to(tmp_path, monkeypatch, capsys):
    images = make_folder(tmp_path / "images", 3)
    assert run(images, tmp_path / "undisturbed") == 0
    stopped(images, tmp_path / "run", monkeypatch)
    images.rename(tmp_path / "elsewhere")
    other = make_folder(tmp_path / "other", 3, seed=1)
    before = contents(tmp_path / "run")
    capsys.readouterr()
    assert run(other, tmp_path / "run") == 3
    told = capsys.readouterr().err
    assert f"not those that the run began with, whose data.path is {images}" in told
    assert contents(tmp_path / "run") == before  # another run's directory is left as it is
    assert run(tmp_path / "elsewhere", tmp_path / "run") == 0
    assert "going on from phase" in capsys.readouterr().out
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "undisturbed")]
    assert models[0] == models[1]
    assert str(tmp_path / "elsewhere") in (tmp_path / "run" / "config.toml").read_text()


def test_a_run_does_not_go_on_with_one_pixel_changed(tmp_path, monkeypatch, capsys):
    images = make_folder(tmp_path / "images", 3)
    stopped(images, tmp_path / "run", monkeypatch)
    file = images / "train" / "class 0" / "0.png"
    original = np.asarray(Image.open(file))
    for row in range(len(original)):  # whichever pixel row it is in
        pixels = original.copy()
        pixels[row, 5] = 255 - pixels[row, 5]
        Image.fromarray(pixels).save(file)
        capsys.readouterr()
        assert run(images, tmp_path / "run") == 3
        assert "the images are not those that the run began with; put them back" in capsys.readouterr().err
