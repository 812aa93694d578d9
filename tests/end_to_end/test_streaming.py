"""Whole runs on images that stay in their files: the same as in memory, and what becomes of files that go bad."""

import json
import multiprocessing
import os
import shutil
import signal

import one_conv
import pytest
import tiny

import train
from cil_func import experiment
from cil_func.data import scenario, streamed
from cil_func.data.reading import checking
from cil_func.runs import saver

pytestmark = pytest.mark.usefixtures("shallow")

QUICK = (
    "run.compile=false", "optim.epochs=2", "optim.batch_size=8", "data.increment=2", "memory.size=8",
    "augment.auto_augment=rand-m9-mstd0.5-inc1", "optim.eval_every_epochs=1", "run.precision=float32",
    f"model.backbone={one_conv.NAME}",
)  # fmt: skip


def settings(folder, *more):
    return tiny.settings(*QUICK, *more, folder=folder)


def run(folder, directory, *more, flags=()):
    words = [word for setting in settings(folder, *more) for word in ("--set", setting)]
    return train.main(["--config", "digits", *words, "--out", str(directory), *flags])


def record(directory):
    """What a run must have in common with another one: its weights, results without times, and exemplars."""
    results = json.loads((directory / "results.json").read_text())
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in results["phases"]]
    memory = json.loads((directory / "memory" / "memory.json").read_text())
    return (directory / "model.safetensors").read_bytes(), rows, results["accuracy_matrix"], memory


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four classes of 12 images, small: copies, which a test may damage."""
    return shutil.copytree(tiny.images(4, 12), tmp_path_factory.mktemp("streaming") / "images")


@pytest.fixture(scope="module")
def resident(folder, tmp_path_factory, shallow):
    directory = tmp_path_factory.mktemp("streaming") / "resident"
    assert run(folder, directory, "data.storage=resident") == 0
    return record(directory)


@pytest.mark.parametrize(("storage", "workers"), [("streaming", 0), ("streaming", 2), ("packed", 0)])
def test_a_run_from_files_is_the_run_in_memory_bit_for_bit(storage, workers, folder, resident, tmp_path):
    more = (f"data.storage={storage}", f"data.workers={workers}", f"data.packed={tmp_path / 'packed'}")
    assert run(folder, tmp_path / "run", *more) == 0
    assert record(tmp_path / "run") == resident
    assert (tmp_path / "packed").exists() == (storage == "packed")


def test_stopped_inside_an_epoch_it_goes_on_with_the_same_bits(folder, resident, tmp_path, monkeypatch, capsys):
    """And with another number of workers: results don't depend on it."""
    call, passed = saver.CheckpointSaver.at_border, []

    def interrupted(self, make, boundary):
        passed.append(boundary)
        if len(passed) == 5:  # the second step of the second epoch of phase 0
            os.kill(os.getpid(), signal.SIGTERM)
        call(self, make, boundary)

    with monkeypatch.context() as patch:
        patch.setattr(saver.CheckpointSaver, "at_border", interrupted)
        assert run(folder, tmp_path / "run", "data.storage=streaming", "data.workers=2") == 143
    assert "phase 0, epoch 1, step 1" in capsys.readouterr().err
    assert run(folder, tmp_path / "run", "data.workers=0") == 0  # "auto" is what it became
    assert record(tmp_path / "run") == resident
    assert not multiprocessing.active_children()


def file_of(folder, position):
    """A training file of phase 0 or 1: the third of the class that comes at this position."""
    order = scenario.class_order("canonical", num_classes=4, class_names=())
    return folder / "train" / sorted(os.listdir(folder / "train"))[order[position]] / "0002.png"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_file_that_vanishes_stops_the_run_and_what_is_saved_goes_on(
    workers, on_error, folder, resident, tmp_path, monkeypatch, capsys
):
    file, select = file_of(folder, 2), experiment.select
    more = ("data.storage=streaming", f"data.workers={workers}", f"data.on_error={on_error}")

    def vanish(made, phase, *others):
        shutil.move(file, tmp_path / "away.png")
        return select(made, phase, *others)

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "select", vanish)
        assert run(folder, tmp_path / "run", *more) == 3
    shutil.move(tmp_path / "away.png", file)
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"image {file}: the file has disappeared" in told
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 3)
    assert len(json.loads((tmp_path / "run" / "results.json").read_text())["phases"]) == 1
    assert run(folder, tmp_path / "run", *more) == 0
    assert record(tmp_path / "run") == resident


@pytest.fixture
def damaged(folder, tmp_path):
    """(a copy of the folder, a file of phase 1 in it whose middle is damaged, so that its ends look whole)."""
    copy = shutil.copytree(folder, tmp_path / "images")
    file = file_of(copy, 2)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF  # a PNG has checksums
    file.write_bytes(content)
    return copy, file


def test_a_damaged_file_is_found_before_the_run_where_that_is_cheap(damaged, tmp_path, capsys):
    copy, file = damaged
    assert run(copy, tmp_path / "run", "data.storage=streaming") == 3
    assert f"unreadable image {file}: damaged" in capsys.readouterr().err
    assert not (tmp_path / "run" / "results.json").exists()


def test_a_damaged_file_that_is_found_in_training_is_named_and_may_be_repaired(
    damaged, folder, resident, tmp_path, monkeypatch, capsys
):
    copy, file = damaged
    monkeypatch.setattr(checking, "_DECODED", 2)  # the first and the last
    monkeypatch.setattr(streamed, "_HASHED", 2)
    assert run(copy, tmp_path / "run", "data.storage=streaming", "data.workers=0") == 3
    assert f"image {file}: damaged" in capsys.readouterr().err
    shutil.copyfile(file_of(folder, 2), file)
    assert run(copy, tmp_path / "run", "data.storage=streaming", "data.workers=0") == 0
    assert record(tmp_path / "run")[0] == resident[0]


def test_skipped_files_are_those_of_a_run_in_memory(damaged, tmp_path, capsys):
    copy, file = damaged
    (copy / "test" / file.parent.name / "0001.png").write_bytes(b"")
    runs = [tmp_path / storage for storage in ("auto", "streaming")]
    for directory in runs:
        assert run(copy, directory, "data.on_error=skip", f"data.storage={directory.name}") == 0
    assert record(runs[0]) == record(runs[1])
    skipped = [json.loads((directory / "results.json").read_text())["skipped_images"] for directory in runs]
    assert skipped[0] == skipped[1] and len(skipped[0]) == 2
    assert "2 images are skipped" in capsys.readouterr().out


def test_a_run_that_is_extended_with_images_in_files_is_that_in_memory(folder, tmp_path):
    """Its exemplars come from the other run's memory, and its old test images from that run's files."""
    names = sorted(os.listdir(folder / "train"))
    for part, some in (("old", names[:2]), ("new", names[2:])):
        for split in ("train", "test"):
            (tmp_path / part / split).mkdir(parents=True)
            for name in some:
                os.symlink(folder / split / name, tmp_path / part / split / name)
    for storage in ("resident", "streaming"):
        before, after = tmp_path / f"{storage} before", tmp_path / f"{storage} after"
        assert run(tmp_path / "old", before, f"data.storage={storage}") == 0
        flags = [
            word for key in (f"data.path={tmp_path / 'new'}", f"data.storage={storage}") for word in ("--set", key)
        ]
        assert train.main(["--extend", str(before), *flags, "--out", str(after)]) == 0
    assert record(tmp_path / "resident after")[:3] == record(tmp_path / "streaming after")[:3]
