"""Chunks of a set in memory: every row once, the same for the same key, and no thread left behind."""

import threading
import time

import numpy as np
import pytest
import torch

from cil_func import rng
from cil_func.data import batches
from cil_func.data.augmentation import augment
from cil_func.data.images import Resident


@pytest.fixture
def images():
    return Resident(torch.from_numpy(np.random.RandomState(0).randint(0, 256, (50, 6, 4, 3), dtype=np.uint8)))


@pytest.fixture
def labels():
    return torch.arange(50) * 10  # tells the row


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
ROWS = torch.tensor([3, 49, 7, 8, 21, 22, 23, 40, 41, 0, 13])


def epoch(images, labels, rows=ROWS, **changes):
    settings = {"batch_size": 4, "key": 1, "augment": None, "device": torch.device("cpu"), **changes}
    return batches.epoch_chunks(images, labels, rows, **settings)


def nothing(apply=lambda images, draws: images) -> augment.Augment:
    """On the thread that Pillow has."""
    return augment.Augment(lambda key, count: {"number": torch.arange(count)}, apply, by_pillow=True)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


@pytest.mark.parametrize("pixels", [1, 24 * 8, 24 * 9, 1 << 21])
def test_every_row_comes_once_in_chunks_of_whole_batches(images, labels, pixels, monkeypatch):
    monkeypatch.setitem(batches.CHUNK_PIXELS, "cpu", pixels)  # an image has 24
    chunks = list(epoch(images, labels))
    sizes = {1: [4, 4, 3], 24 * 8: [8, 3], 24 * 9: [8, 3], 1 << 21: [11]}
    assert [len(chunk.batch.labels) for chunk in chunks] == sizes[pixels]
    seen = torch.cat([chunk.batch.labels for chunk in chunks])
    assert sorted(seen.tolist()) == sorted((ROWS * 10).tolist())
    assert torch.equal(torch.cat([chunk.batch.images for chunk in chunks]), images.pixels[seen // 10])
    assert chunks[0].batch.images.dtype == torch.uint8 and chunks[0].batch.labels.dtype == torch.int64


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (4, [4]), (5, [4, 1])])
def test_pillow_gets_batches_and_few_rows_are_enough(images, labels, count, sizes):
    chunks = list(epoch(images, labels, ROWS[:count], augment=nothing()))
    assert [len(chunk.batch.labels) for chunk in chunks] == sizes and not threads()


def test_nothing_but_pillow_has_a_thread(images, labels):
    chunks = epoch(images, labels, augment=augment.device(flip=True), batch_size=1)
    next(chunks)
    assert not threads()


def test_order_and_draws_are_made_when_it_is_called(images, labels):
    """So that the host draws the next epoch while a GPU still works on this one."""
    drawn = []
    lazy = augment.Augment(lambda key, count: drawn.append(count) or {}, lambda images, draws: images)
    epoch(images, labels, augment=lazy)
    assert drawn == [11]


def test_the_key_decides_the_order_and_the_draws(images, labels):
    jitter = augment.pil(crop_padding=2, flip=True, brightness=0.5)
    first, second, other = (list(epoch(images, labels, augment=jitter, key=key)) for key in (1, 1, 2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.batch.images, b.batch.images) and torch.equal(a.batch.labels, b.batch.labels)
    assert [batch.batch.labels.tolist() for batch in first] != [batch.batch.labels.tolist() for batch in other]


@pytest.mark.parametrize("make", [augment.pil, augment.device])
def test_draws_belong_to_the_epoch_and_not_to_the_batches(make, images, labels, monkeypatch):
    jitter = make(crop_padding=2, flip=True, auto_augment="rand-m9-mstd0.5-inc1")
    whole = next(epoch(images, labels, augment=jitter, batch_size=11))
    monkeypatch.setitem(batches.CHUNK_PIXELS, "cpu", 1)
    cut = list(epoch(images, labels, augment=jitter, batch_size=3))
    assert [len(chunk.batch.labels) for chunk in cut] == [3, 3, 3, 2]
    assert torch.equal(torch.cat([batch.batch.images for batch in cut]), whole.batch.images)
    order = ROWS[torch.randperm(11, generator=rng.generator(rng.fold_in(1, "order")))]
    draws = jitter.draw(rng.fold_in(1, "augment"), 11)
    assert torch.equal(whole.batch.labels, labels[order])
    assert torch.equal(whole.batch.images, jitter.apply(images.pixels[order], draws))


def test_stopping_early_leaves_no_thread(images, labels):
    batches = epoch(images, labels, batch_size=1, augment=nothing())
    next(batches)
    assert threads()
    batches.close()
    assert not threads()
    for _ in epoch(images, labels, batch_size=1, augment=nothing()):
        break
    assert not threads()


def test_an_exception_reaches_the_consumer_as_itself(images, labels):
    class Odd(Exception):
        pass

    def apply(batch, draws):
        if draws["number"][0] == 8:
            raise Odd("third batch")
        return batch

    broken = nothing(apply)
    seen = []
    with pytest.raises(Odd, match="third batch"):
        for batch in epoch(images, labels, augment=broken):
            seen.append(len(batch.batch.labels))
    assert seen == [4, 4] and not threads()


def test_batches_are_prepared_ahead_by_two_and_no_more(images, labels):
    made, other_threads = [], []

    def apply(batch, draws):
        made.append(int(draws["number"][0]))
        other_threads.append(threading.current_thread() is not threading.main_thread())
        return batch

    counting = nothing(apply)
    batches = epoch(images, labels, augment=counting, batch_size=1)
    next(batches)
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert made == [0, 1, 2]  # one handed out, two ahead
    assert len(list(batches)) == 10 and made == list(range(11)) and all(other_threads)


class Gpu:
    """A GPU as far as uploads are concerned: what is pinned and copied, by which thread. Tensors stay where they are.

    `gathered` is set when `wanted` sets of images were pinned.
    """

    def __init__(self, monkeypatch, wanted: int):
        self.log, self.pinned, self.gathered, self.wanted = [], [], threading.Event(), wanted
        self.devices = []
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
        monkeypatch.setattr(torch.cuda, "set_device", lambda at: self.devices.append((at, threading.current_thread())))
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: self.pin(tensor))
        monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *where, **how: self.to(tensor, *where, **how))

    def pin(self, tensor):
        self.note("pin", tensor)
        self.pinned.append(tensor)
        return tensor

    def to(self, tensor, device, non_blocking=False):
        if device.type == "cpu":
            return tensor
        assert non_blocking and any(tensor is pinned for pinned in self.pinned), "this copy waits for the GPU"
        self.note("upload", tensor)
        return tensor

    def note(self, what, tensor):
        if tensor.dtype == torch.uint8:
            self.log.append((what, threading.current_thread().name.split("_")[0]))
            if [entry[0] for entry in self.log].count("pin") == self.wanted:
                self.gathered.set()


def test_images_on_the_host_are_pinned_ahead_and_uploaded_without_waiting(images, labels, monkeypatch):
    """11 rows in chunks of 4: both other chunks are in pinned memory before the first one is asked for or used."""
    monkeypatch.setitem(batches.CHUNK_PIXELS, "cuda", 24 * 4)
    expected = list(epoch(images, labels))
    gpu = Gpu(monkeypatch, wanted=2)
    chunks = epoch(images, labels, device=torch.device("cuda"))
    assert gpu.gathered.wait(30)  # nothing was asked for yet: the last epoch still keeps the GPU busy
    assert [entry for entry in gpu.log if entry[0] == "pin"] == [("pin", "batches")] * 2
    ((device, thread),) = gpu.devices  # a thread begins with the first GPU, and pinning asks its own
    assert device == 3 and thread.name.startswith("batches")
    found = list(chunks)
    assert [entry for entry in gpu.log if entry[0] == "upload"] == [("upload", "MainThread")] * 3
    for place in range(2):  # images, labels
        assert torch.equal(torch.cat([c.batch[place] for c in found]), torch.cat([c.batch[place] for c in expected]))
    assert not threads()


def test_pillow_prepares_several_batches_at_a_time_where_that_fills_the_forward_graph(images, labels, monkeypatch):
    monkeypatch.setitem(batches.PILLOW_PIXELS, "cpu", 24 * 9)  # two batches of 4 images, nearly three
    flip = augment.pil(auto_augment="rand-m9", flip=True)
    chunks = list(epoch(images, labels, augment=flip))
    assert [chunk.sizes for chunk in chunks] == [(4, 4), (3,)]
    monkeypatch.setitem(batches.PILLOW_PIXELS, "cpu", 1)
    alone = list(epoch(images, labels, augment=flip))
    assert [chunk.sizes for chunk in alone] == [(4,), (4,), (3,)]
    assert torch.equal(*(torch.cat([chunk.batch.images for chunk in found]) for found in (chunks, alone)))


def test_a_batch_of_no_images_is_refused(images, labels):
    with pytest.raises(ValueError, match="batch_size=0"):
        epoch(images, labels, batch_size=0)


def test_channel_statistics_are_numpys(images, monkeypatch):
    monkeypatch.setattr(batches, "_STATISTICS_PIXELS", 100)  # chunks of 4 images
    mean, std = batches.channel_statistics(images, ROWS)
    pixels = images.pixels[ROWS].numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(std, pixels.std((0, 1, 2)), rtol=1e-13)
    assert all(type(value) is float for value in mean + std)


def test_channel_statistics_of_one_colour_can_be_divided_by(images):
    flat = Resident(torch.full((3, 2, 2, 3), 51, dtype=torch.uint8))  # 51 / 255 = 0.2
    mean, std = batches.channel_statistics(flat, torch.arange(3))
    assert mean == pytest.approx((0.2, 0.2, 0.2)) and std == (1 / 255,) * 3
    with pytest.raises(ValueError, match="no rows"):
        batches.channel_statistics(images, ROWS[:0])


@pytest.mark.parametrize(
    ("resident_on", "device"),
    [("cpu", "cpu"), *(pytest.param(*pair, marks=cuda) for pair in (("cpu", "cuda"), ("cuda", "cuda")))],
)
def test_on_cuda_an_epoch_is_the_cpus(resident_on, device, images, labels):
    jitter = augment.device(crop_padding=2, flip=True)  # exact on any device
    expected = list(epoch(images, labels, augment=jitter))
    found = list(epoch(Resident(images.pixels.to(resident_on)), labels, augment=jitter, device=torch.device(device)))
    assert all(leaf.device.type == device for chunk in found for leaf in chunk.batch)
    for place in range(2):  # images, labels
        mine, theirs = (torch.cat([chunk.batch[place] for chunk in chunks]) for chunks in (found, expected))
        assert torch.equal(mine.cpu(), theirs)


@pytest.mark.parametrize(
    ("count", "joins", "sizes"),
    [
        (9, False, [4, 4, 1]), (9, True, [4, 5]), (10, True, [4, 4, 2]), (8, True, [4, 4]), (5, True, [5]),
        (1, True, [1]), (0, True, []),
    ],
)  # fmt: skip
def test_a_last_batch_of_one_image_is_joined_to_the_one_before_it(images, labels, count, joins, sizes):
    cut = batches.cut(count, 4, joins=joins)
    assert [len(batch) for batch in cut] == sizes
    assert [place for batch in cut for place in batch] == list(range(count))
    chunks = list(epoch(images, labels, ROWS[:count], joins=joins))
    assert [size for chunk in chunks for size in chunk.sizes] == sizes
    later = list(epoch(images, labels, ROWS[:count], joins=joins, first_step=1))
    assert [size for chunk in later for size in chunk.sizes[chunk.done :]] == sizes[1:]


def test_batches_of_an_epoch_are_those_of_its_chunks_one_by_one(images, labels):
    """As tensors or as a set of images; without rows each image comes once."""
    (chunk,) = epoch(images, labels)
    found = list(batches.epoch_batches(images.pixels, labels, ROWS, batch_size=4, key=1))
    assert [len(batch.labels) for batch in found] == [4, 4, 3]
    assert torch.equal(torch.cat([batch.labels for batch in found]), chunk.batch.labels)
    for batch in found:
        assert torch.equal(batch.images, images.pixels[batch.labels // 10])
    every = list(batches.epoch_batches(images, labels, batch_size=7, key=1))
    assert sorted(torch.cat([batch.labels for batch in every]).tolist()) == labels.tolist()
    with pytest.raises(ValueError, match=r"epoch_batches: labels \(11,\) for 50 images"):
        batches.epoch_batches(images, labels[ROWS], batch_size=4, key=1)
