"""Images in a packed file: the batches of images in memory, made once, and refused when it isn't of these images."""

import multiprocessing
import os
import threading
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cil_func.data import batches, sources, streamed
from cil_func.data.augmentation import augment
from cil_func.data.reading import file_table, loading, packing
from cil_func.errors import DataError, DiskError

CLASSES, TRAIN, TEST = 2, 7, 2
COUNT = CLASSES * (TRAIN + TEST)
RECIPES = {
    "device": augment.device(crop_padding=2, flip=True, auto_augment="rand-m9-mstd0.5-inc1"),
    "window": augment.device(window=0.2, flip=True),
    "none": None,
}
LOAD = partial(sources.load, "image_folder", image_size=12)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks, the last one smaller; one has images of both splits."""
    monkeypatch.setattr(packing, "_MOST_OF_BLOCK", 4)
    monkeypatch.setitem(batches.CHUNK_PIXELS, "cpu", 12 * 12 * 8)
    yield
    assert not multiprocessing.active_children()


@pytest.fixture
def folder(tmp_path):
    """JPEGs of several sizes, which are brought to one."""
    draw = np.random.default_rng(0)
    for split, count in (("train", TRAIN), ("test", TEST)):
        for name in ("ant", "cat")[:CLASSES]:
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 256, (*draw.integers(9, 30, 2), 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{number}.jpg")
    return tmp_path / "data"


@pytest.fixture
def decoded(monkeypatch):
    """A list to which the rows are added that are decoded in this process."""
    rows, read = [], loading.read

    def counted(table, row, *others, **more):
        rows.append(row)
        return read(table, row, *others, **more)

    monkeypatch.setattr(loading, "read", counted)
    return rows


def packed_file(folder):
    (path,) = (folder / "packed").glob("*.uint8")
    return path


def epoch(data, recipe):
    images = streamed.images_of(data.train_images, workers=0)
    rows, settings = torch.arange(len(images)), {"batch_size": 4, "key": 1, "device": torch.device("cpu")}
    return [chunk.batch for chunk in batches.epoch_chunks(images, rows, rows, augment=recipe, **settings)]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_from_memory_and_from_the_files(workers, folder):
    found, resident, streaming = (
        LOAD(path=str(folder), storage=storage, workers=workers) for storage in ("packed", "resident", "streaming")
    )
    assert found.train_images.shape == resident.train_images.shape == (CLASSES * TRAIN, 12, 12, 3)
    assert np.array_equal(found.test_images.map(), resident.test_images)
    for name, recipe in RECIPES.items():
        others = [resident] if name == "window" else [resident, streaming]  # streamed, it is of the whole image
        for other in others:
            for mine, theirs in zip(epoch(found, recipe), epoch(other, recipe), strict=True):
                assert mine.images.equal(theirs.images) and mine.labels.equal(theirs.labels)
    assert all(np.array_equal(found[at], resident[at]) for at in (1, 3)) and found[4:] == resident[4:]


def test_it_is_made_once_and_takes_no_memory(folder, decoded, tmp_path):
    first = LOAD(path=str(folder), storage="packed")
    assert sorted(decoded) == [*range(COUNT)]
    again = LOAD(path=str(folder), storage="packed")
    assert len(decoded) == COUNT and again.train_images == first.train_images
    path = packed_file(folder)
    assert path.stat().st_size == COUNT * 12 * 12 * 3 and not list(path.parent.glob("*.part"))
    images = streamed.images_of(again.train_images, workers=0)
    assert (images.nbytes, images.workers, images.shape) == (0, None, (12, 12))
    assert not images.pixels.flags.writeable and not images.pixels.flags.owndata
    assert [part.tobytes() for part in streamed.contents(again.train_images)] == [again.train_images.digest]
    elsewhere = LOAD(path=str(folder), storage="packed", packed=str(tmp_path / "disk"))
    assert [file.suffix for file in sorted((tmp_path / "disk").iterdir())] == [".uint8", ".index"]
    assert np.array_equal(elsewhere.train_images.map(), first.train_images.map())
    smaller = LOAD(path=str(folder), storage="packed", image_size=8)
    assert smaller.train_images.shape[1:3] == (8, 8) and len(list(path.parent.glob("*.uint8"))) == 2


def test_several_that_want_it_at_once_make_it_once(folder, decoded):
    threads = [threading.Thread(target=LOAD, kwargs={"path": str(folder), "storage": "packed"}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(decoded) == [*range(COUNT)] and packed_file(folder)


class Interrupt(Exception):
    """Stands for a signal."""


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("left", "kept"), [
    (lambda part, index, files: None, 3),
    (lambda part, index, files: cut(part), 2),
    (lambda part, index, files: flip(part, 9 * 12 * 12 * 3), 2),  # of the third block
    (lambda part, index, files: cut(index), 2),
    (lambda part, index, files: os.utime(files[5], ns=(1, 1)), 1),  # of the second block
    (lambda part, index, files: index.write_bytes(b""), 0),
    (lambda part, index, files: part.unlink(), 0),
])  # fmt: skip
def test_an_interrupted_packing_goes_on_behind_what_is_right(left, kept, folder, decoded, monkeypatch):
    def interrupt(done):
        if done == 12:
            raise Interrupt

    with monkeypatch.context() as patch, pytest.raises(Interrupt):
        patch.setattr(packing, "_teller", lambda *given: interrupt)
        LOAD(path=str(folder), storage="packed")
    (part,), (index,) = ((folder / "packed").glob(f"*.{end}") for end in ("part", "index"))
    assert part.stat().st_size == 12 * 12 * 12 * 3  # three blocks of four
    left(part, index, sorted((folder / "train" / "ant").iterdir()))
    decoded.clear()
    found = LOAD(path=str(folder), storage="packed")
    assert decoded == [*range(4 * kept, COUNT)]
    assert np.array_equal(found.train_images.map(), LOAD(path=str(folder)).train_images)


@pytest.mark.parametrize(("change", "line"), [
    (lambda folder, path: os.utime(folder / "test" / "cat" / "1.jpg", ns=(1, 1)), "is not of these images: files or"),
    (lambda folder, path: cut(path), r"is damaged: 7,767 bytes, which is not what its index says"),
    (lambda folder, path: flip(path, 4 * 12 * 12 * 3), "is damaged in block 1 of 5"),
    (lambda folder, path: path.with_name(path.name + ".index").unlink(), "No such file or directory"),
])  # fmt: skip
def test_a_file_that_does_not_belong_or_is_damaged_is_refused(change, line, folder):
    LOAD(path=str(folder), storage="packed")
    change(folder, packed_file(folder))
    with pytest.raises(DataError, match=line) as failure:
        LOAD(path=str(folder), storage="packed")
    assert f"delete {packed_file(folder)}, and it is made anew" in str(failure.value)
    packed_file(folder).unlink()
    found = LOAD(path=str(folder), storage="packed")
    assert np.array_equal(found.train_images.map(), LOAD(path=str(folder)).train_images)


def test_a_disk_that_is_too_small_is_named_with_what_it_lacks(folder, monkeypatch):
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda path: SimpleNamespace(free=COUNT * 12 * 12 * 3 - 1))
    with pytest.raises(
        DiskError, match=r"packing 18 images needs 0\.0 GB in .*packed, 0\.0 GB are free; set data\.packed"
    ):
        LOAD(path=str(folder), storage="packed")


def test_a_place_that_can_not_be_written(folder, tmp_path, monkeypatch):
    """Beside the images if that can be written, else in the package's cache; a file that is there is used anyway."""
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(packing.os, "access", lambda path, mode: not str(path).startswith(str(folder)))
        for _ in range(2):
            found = LOAD(path=str(folder), storage="packed")
            assert found.train_images.path.startswith(os.path.join(".data", "packed", "data-"))
    assert LOAD(path=str(folder), storage="packed").train_images == found.train_images
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=r"file/data-.*: File exists; set data\.packed to another folder"):
        LOAD(path=str(folder), storage="packed", packed=str(tmp_path / "file"))


@pytest.mark.parametrize("place", ["train/ant/5.jpg", "test/ant/0.jpg"])
def test_files_that_can_not_be_read(place, folder, decoded):
    """Skipped, they are those of images in memory. If not, the first one ends the packing, which goes on later."""
    content = (folder / place).read_bytes()
    (folder / place).write_bytes(b"")
    with pytest.raises(DataError, match=rf"unreadable image .*{place}: the file is empty"):
        LOAD(path=str(folder), storage="packed")
    found, expected = (LOAD(path=str(folder), storage=where, on_error="skip") for where in ("packed", "resident"))
    assert found.skipped == expected.skipped == (f"{place}: the file is empty",)
    for mine, theirs in ((found.train_images, expected.train_images), (found.test_images, expected.test_images)):
        assert np.array_equal(mine.map(), theirs)
    assert np.array_equal(found.train_targets, expected.train_targets)
    packed_file(folder).unlink()
    with pytest.raises(DataError, match="unreadable image"):
        LOAD(path=str(folder), storage="packed")
    (folder / place).write_bytes(content)
    decoded.clear()
    assert len(LOAD(path=str(folder), storage="packed").train_images) == CLASSES * TRAIN
    assert decoded[0] > 0  # the blocks before it are kept


def test_joined_with_images_in_memory(folder):
    found = LOAD(path=str(folder), storage="packed")
    before = np.full((3, 12, 12, 3), 7, dtype=np.uint8)
    images = streamed.images_of(file_table.join(before, found.train_images), workers=0)
    rows = torch.tensor([5, 1, 3])
    assert images.gather(rows).equal(torch.from_numpy(np.concatenate([before, found.train_images.map()])[rows]))
