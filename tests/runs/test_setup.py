"""What a run is built from: the data are read once on each machine."""

import math
from functools import partial

import pytest
from PIL import Image

from cil_func import config
from cil_func.data.reading import decoding, image_file, sharing
from cil_func.errors import DataError
from cil_func.parallel.launch import Launch
from cil_func.parallel.processes import Processes
from cil_func.runs import setup


class Store:
    """The shared store of the processes of a machine, for tests in one process, where they run one after the other."""

    def __init__(self):
        self.said = {}

    def announce(self, key, value=""):
        self.said[key] = value

    def wait_for_announcement(self, key):
        return self.said[key]

    def exchange(self, name, value):
        return [value]


class Process(Processes):
    """One of several processes of a machine. `met` is called while the first one waits for the others."""

    def __init__(self, rank, size, store, met=lambda: None):
        super().__init__(Launch(rank, size, rank, size))
        self.watch, self.met = store, met

    def wait_for_all(self, place):
        self.met()

    def check_equal(self, what, *, when):
        self.said = what


@pytest.fixture
def folder(tmp_path):
    """A folder with two classes of three training and two test images each."""
    for split, count in (("train", 3), ("test", 2)):
        for index, name in enumerate("ab"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (10 * index + number, 0, 0)).save(tmp_path / split / name / f"{number}.png")
    return tmp_path


@pytest.fixture
def opened(monkeypatch):
    read, files = image_file.read, []

    def noted(file, *others, **rules):
        files.append(file)
        return read(file, *others, **rules)

    monkeypatch.setattr(image_file, "read", noted)
    return files


def settings(folder):
    return config.load("digits", [
        "data.name=image_folder", f"data.path={folder}", "data.increment=1", "optim.norm_batch=4", "optim.batch_size=8",
        "run.device=cpu", "data.storage=resident", "run.precision=float32", "memory.size=4", "model.backbone=resnet20",
    ])  # fmt: skip


def built(folder, size: int) -> list[setup.Setup]:
    """Returns what each process of a machine builds. The others build while the first one waits for them."""
    store, found = Store(), []

    def others():
        found.extend(setup.build(settings(folder), Process(rank, size, store)) for rank in range(1, size))

    return [setup.build(settings(folder), Process(0, size, store, others)), *found]


@pytest.mark.skipif(not sharing.is_supported(), reason="memory without a name is Linux's")
def test_a_machine_decodes_its_images_once_for_all_its_processes(folder, opened):
    made = built(folder, 3)
    assert len(made) == 3 and len(set(opened)) == 10
    assert len(opened) == 11  # the first one twice: for its size
    alone = setup.build(settings(folder))
    for ready in made:
        mine, other = ready.experiment, alone.experiment
        assert mine.train_images.pixels.equal(other.train_images.pixels)
        assert mine.test_images.pixels.equal(other.test_images.pixels)
        assert mine.train_images.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12]
        assert ready.fingerprint == alone.fingerprint and mine.class_names == other.class_names


def test_without_shared_memory_each_process_reads_and_all_are_counted(folder, opened, monkeypatch):
    monkeypatch.setattr(sharing, "is_supported", lambda: False)
    assert len(built(folder, 2)) == 2 and len(opened) == 2 * 11
    needed = 10 * 8 * 8 * 3
    monkeypatch.setattr(decoding, "available_bytes", lambda: 2 * needed)
    built(folder, 2)
    with pytest.raises(DataError, match=r"10 images of 8x8 need .* in each of 3 processes, .* or processes"):
        built(folder, 3)


@pytest.mark.skipif(not sharing.is_supported(), reason="memory without a name is Linux's")
def test_shared_images_are_counted_once_and_a_copy_that_is_needed_after_all_too(folder, opened, monkeypatch):
    needed = 10 * 8 * 8 * 3
    monkeypatch.setattr(decoding, "available_bytes", lambda: needed)
    assert len(built(folder, 3)) == 3
    attach = sharing.attach

    def hidden(text):
        if len(opened) > 11:  # after the first process has mapped it
            raise PermissionError("Permission denied")
        opened.append("mapped")
        return attach(text)

    opened.clear()
    monkeypatch.setattr(sharing, "attach", hidden)
    with pytest.raises(DataError, match="in each of 2 processes"):
        built(folder, 3)
    opened.clear()
    monkeypatch.setattr(decoding, "available_bytes", lambda: 2 * needed)
    first, second, third = built(folder, 3)
    assert second.experiment.train_images.pixels.equal(first.experiment.train_images.pixels)
    assert third.fingerprint == first.fingerprint
    assert len(opened) == 1 + 3 * 11


@pytest.mark.skipif(not sharing.is_supported(), reason="memory without a name is Linux's")
def test_reading_images_is_announced_as_long_work(folder, monkeypatch):
    """Processes that wait for it would otherwise take it for one that hangs."""
    read, store, announced = image_file.read, Store(), []
    first, second = (Process(rank, 2, store, met) for rank, met in ((0, lambda: found(second)), (1, lambda: None)))

    def noted(process, *arguments, **rules):
        announced.append((process.rank, process.activity.record().work, process.activity.record().at_most_seconds))
        return read(*arguments, **rules)

    def found(process):
        """Builds in a process that can't map the images and has to read them itself."""
        monkeypatch.setattr(sharing, "attach", hidden)
        monkeypatch.setattr(image_file, "read", partial(noted, process))
        setup.build(settings(folder), process)

    def hidden(text):
        raise PermissionError("Permission denied")

    monkeypatch.setattr(image_file, "read", partial(noted, first))
    setup.build(settings(folder), first)
    assert set(announced) == {(rank, "data", math.inf) for rank in (0, 1)} and len(announced) == 2 * 11
