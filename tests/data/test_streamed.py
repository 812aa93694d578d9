"""Images in files: the same batches as from memory, however many workers decode, and nothing left behind."""

import errno
import gc
import multiprocessing
import os
import pickle
import subprocess
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from cil_func.data import batches, streamed
from cil_func.data.augmentation import augment, window
from cil_func.data.images import Mirrored, Part, Resident
from cil_func.data.reading import file_table, image_file, loading
from cil_func.data.reading.pixels import Rules
from cil_func.errors import DataError, MachineError

COUNT = 23
RECIPES = {
    "device": augment.device(crop_padding=2, flip=True, brightness=0.5, auto_augment="rand-m9-mstd0.5-inc1"),
    "pil": augment.pil(crop_padding=2, auto_augment="rand-m9-mstd0.5-inc1"),
    "window": augment.device(window=0.2, flip=True),
    "pil and window": augment.pil(window=0.2, auto_augment="rand-m9-mstd0.5-inc1"),
    "none": None,
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """JPEGs of 12 x 12 pixels, so that nothing is resized and a window is cut from the same image as in memory."""
    folder, draw = tmp_path_factory.mktemp("streamed"), np.random.default_rng(0)
    paths = [str(folder / f"{number}.jpg") for number in range(COUNT)]
    for path in paths:
        Image.fromarray(draw.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
    return file_table.table(paths, size=(12, 12), resizes=True, rules=Rules())


@pytest.fixture(scope="module")
def pixels(table):
    return torch.from_numpy(np.stack([image_file.read(table.path(row)) for row in range(COUNT)]))


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Several pieces a chunk, several chunks an epoch, and no worker afterwards."""
    monkeypatch.setattr(streamed, "_MOST_OF_PIECE", 3)
    monkeypatch.setitem(batches.CHUNK_PIXELS, "cpu", 12 * 12 * 9)
    yield
    assert not multiprocessing.active_children()


def epoch(images, recipe, **changes):
    settings = {"batch_size": 4, "key": 1, "device": torch.device("cpu"), **changes}
    rows = torch.arange(COUNT)[torch.arange(COUNT) % 7 != 3]
    return batches.epoch_chunks(images, torch.arange(COUNT), rows, augment=recipe, **settings)


def check_same(found, expected):
    for mine, other in zip(found, expected, strict=True):
        assert mine[1:] == other[1:] and mine.batch.labels.equal(other.batch.labels)
        assert mine.batch.images.equal(other.batch.images)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_batches_are_those_from_memory_whatever_the_number_of_workers(recipe, table, pixels):
    places = [({}, (0, 1, 2, 4)), ({"own": slice(2, 4), "first_step": 2}, (2,))]  # the second process of two, resumed
    for changes, counts in places:
        expected = list(epoch(Resident(pixels), RECIPES[recipe], **changes))
        for workers in counts:
            check_same(epoch(streamed.Streamed(table, workers), RECIPES[recipe], **changes), expected)


def test_a_set_of_which_a_part_is_in_memory(table, pixels):
    rest = file_table.table(map(table.path, range(10, COUNT)), size=(12, 12), resizes=True, rules=Rules())
    joined = file_table.join(pixels[:10].numpy(), rest)
    assert (len(joined), joined.shape) == (COUNT, (COUNT, 12, 12, 3))
    images = streamed.images_of(joined, workers=2)
    check_same(epoch(images, RECIPES["window"]), epoch(Resident(pixels), RECIPES["window"]))
    assert images.gather(torch.tensor([22, 3, 10])).equal(pixels[[22, 3, 10]])


def test_mirror_images_and_statistics(table, pixels):
    images, rows = streamed.Streamed(table, 2), torch.tensor([5, 20, 7])
    (found,) = Mirrored(images).stream([Part(rows, {})])
    assert found.equal(pixels[rows].flip(2))
    assert batches.channel_statistics(images, rows) == batches.channel_statistics(Resident(pixels), rows)
    assert images.gather(torch.empty(0, dtype=torch.int64)).shape == (0, 12, 12, 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_stopping_early_leaves_no_worker_and_no_thread(workers, table):
    chunks = epoch(streamed.Streamed(table, workers), RECIPES["device"])
    next(chunks)
    assert len(multiprocessing.active_children()) == workers
    chunks.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_signals_to_all_processes_of_a_job_leave_the_workers_until_the_end(table, pixels):
    """The run saves when it gets one, which may take more images."""
    chunks = epoch(streamed.Streamed(table, 2), None)
    first = next(chunks)
    for worker in multiprocessing.active_children():
        for number in ("INT", "TERM"):  # from another process: one of its parent would end it
            subprocess.run(["/bin/sh", "-c", f"kill -{number} {worker.pid}"], check=True)
    expected = list(epoch(Resident(pixels), None))
    check_same([first, *chunks], expected)


def test_a_worker_ends_when_its_parent_says_so(table):
    loaded = loading.start(table, map(loading.piece, [[0], [1]]), change=None, workers=1)
    assert next(loaded).pixels.shape == (1, 12, 12, 3)
    (worker,) = multiprocessing.active_children()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0
    loaded.close()


def test_workers_that_can_not_be_started_are_one_line(table, monkeypatch, recwarn):
    """As in a container whose /dev/shm is full."""

    def full(*words, **more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(multiprocessing.get_context(loading._START).Process, "start", full)
    with pytest.raises(MachineError, match=r"No space left on device in /dev/shm; make room there, or set data"):
        loading.start(table, [loading.piece([0])], change=None, workers=1)
    gc.collect()
    assert not recwarn


def test_changes_can_be_sent_to_workers_that_are_not_forked():
    for recipe in ({"window": 0.1}, {"auto_augment": "rand-m9-mstd0.5-inc1"}, {"flip": True}):
        for backend in ("device", "pil"):
            pickle.loads(pickle.dumps(augment.make(backend=backend, **recipe)))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_is_gone_or_of_another_size_is_named(workers, table, tmp_path):
    paths = [table.path(row) for row in range(6)] + [str(tmp_path / "gone.jpg")]
    lost = file_table.table(paths, size=(12, 12), resizes=True, rules=Rules())
    with pytest.raises(DataError, match=r"image .*gone\.jpg: the file has disappeared; repair or put it back"):
        list(streamed.Streamed(lost, workers).stream([Part(torch.arange(6), {}), Part(torch.arange(7), {})]))
    Image.new("RGB", (12, 13)).save(tmp_path / "gone.jpg")
    uneven = file_table.table(paths, size=(12, 12), resizes=False, rules=Rules())
    with pytest.raises(DataError, match=r"gone\.jpg: 12x13 pixels, and others have 12x12; set data\.image_size"):
        streamed.Streamed(uneven, workers).gather(torch.arange(7))


def test_windows_are_those_of_timm_for_the_same_random_numbers():
    """timm draws from the module `random`; seeded alike it makes the same calls."""
    import random

    from timm.data.transforms import RandomResizedCropAndInterpolation

    theirs = RandomResizedCropAndInterpolation(8, scale=(0.08, 1.0), interpolation="bicubic")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    image, state = Image.fromarray(pixels), random.getstate()
    for seed in range(40):
        random.seed(seed)
        expected = theirs(image)
        assert np.array_equal(np.asarray(window.cut(image, seed, smallest=0.08, size=(8, 8))), np.asarray(expected))
    random.seed(3)
    top, left, high, wide = theirs.get_params(Image.new("RGB", (1000, 2)), (0.9, 1.0), theirs.ratio)
    assert window.box(1000, 2, 3, smallest=0.9) == (left, top, left + wide, top + high)  # none of ten fits
    random.setstate(state)


def test_paths_of_any_bytes():
    paths = ["/a/b.png", "/ü/\udcff.png", ""]
    table = file_table.table(paths, size=(1, 1), resizes=False, rules=Rules())
    assert [table.path(row) for row in range(3)] == paths
    assert table.nbytes == 8 + 9 + 3 * 8


def test_the_numbers_that_are_looked_at_are_spread():
    assert list(file_table.spread(5, 3)) == [0, 2, 4] and list(file_table.spread(2, 9)) == [0, 1]
    assert list(file_table.spread(0, 3)) == []


def test_what_tells_images_apart(table, pixels, tmp_path):
    def told(found):
        return [part.tobytes() for part in streamed.contents(found)]

    assert told(pixels.numpy()) == [pixels.numpy().tobytes()]
    copies = [str(tmp_path / table.path(row).split(os.sep)[-2] / f"{row}.jpg") for row in range(COUNT)]
    os.makedirs(os.path.dirname(copies[0]))
    for row, copy in enumerate(copies):
        with open(table.path(row), "rb") as source, open(copy, "wb") as target:
            target.write(source.read())
    moved = file_table.table(copies, size=(12, 12), resizes=True, rules=Rules())
    assert told(moved) == told(table)  # another place, the same names
    with open(copies[3], "ab") as target:
        target.write(b"x")
    assert told(moved) != told(table)


def test_draws_of_torch_are_left_alone(table):
    state = torch.random.get_rng_state()
    list(loading.start(table, [loading.piece([1])], change=None, workers=0))
    assert torch.random.get_rng_state().equal(state)
