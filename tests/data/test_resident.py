"""Batches of a set in memory: every row once, the same for the same key, and no thread left behind."""

import threading
import time

import numpy as np
import pytest
import torch

from cil_func import rng
from cil_func.data import augment, resident


@pytest.fixture
def images():
    return torch.from_numpy(np.random.RandomState(0).randint(0, 256, (50, 6, 4, 3), dtype=np.uint8))


@pytest.fixture
def labels():
    return torch.arange(50) * 10  # tells the row


ROWS = torch.tensor([3, 49, 7, 8, 21, 22, 23, 40, 41, 0, 13])


def epoch(images, labels, rows=ROWS, **changes):
    settings = {"batch_size": 4, "key": 1, "augment": None, **changes}
    return resident.epoch_batches(images, labels, rows, **settings)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_every_row_comes_once_and_the_last_batch_is_smaller(images, labels):
    batches = list(epoch(images, labels))
    assert [len(batch.labels) for batch in batches] == [4, 4, 3]
    seen = torch.cat([batch.labels for batch in batches])
    assert sorted(seen.tolist()) == sorted((ROWS * 10).tolist())
    assert torch.equal(torch.cat([batch.images for batch in batches]), images[seen // 10])
    assert batches[0].images.dtype == torch.uint8 and batches[0].labels.dtype == torch.int64
    assert not threads()


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (1, [1]), (4, [4]), (5, [4, 1])])
def test_few_rows(images, labels, count, sizes):
    assert [len(batch.labels) for batch in epoch(images, labels, ROWS[:count])] == sizes


def test_the_key_decides_the_order_and_the_draws(images, labels):
    jitter = augment.pil(crop_padding=2, flip=True, brightness=0.5)
    first, second, other = (list(epoch(images, labels, augment=jitter, key=key)) for key in (1, 1, 2))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
    assert [batch.labels.tolist() for batch in first] != [batch.labels.tolist() for batch in other]


def test_draws_belong_to_the_epoch_and_not_to_the_batches(images, labels):
    jitter = augment.pil(crop_padding=2, flip=True, auto_augment="rand-m9-mstd0.5-inc1")
    whole = next(epoch(images, labels, augment=jitter, batch_size=11))
    cut = list(epoch(images, labels, augment=jitter, batch_size=3))
    assert torch.equal(torch.cat([batch.images for batch in cut]), whole.images)
    order = ROWS[torch.randperm(11, generator=rng.generator(rng.fold_in(1, "order")))]
    draws = jitter.draw(rng.fold_in(1, "augment"), 11)
    assert torch.equal(whole.labels, labels[order])
    assert torch.equal(whole.images, jitter.apply(images[order], draws))


def test_stopping_early_leaves_no_thread(images, labels):
    batches = epoch(images, labels, batch_size=1)
    next(batches)
    assert threads()
    batches.close()
    assert not threads()
    for _ in epoch(images, labels, batch_size=1):
        break
    assert not threads()


def test_an_exception_reaches_the_consumer_as_itself(images, labels):
    class Odd(Exception):
        pass

    def apply(batch, draws):
        if draws["number"][0] == 8:
            raise Odd("third batch")
        return batch

    broken = augment.Augment(lambda key, count: {"number": torch.arange(count)}, apply)
    seen = []
    with pytest.raises(Odd, match="third batch"):
        for batch in epoch(images, labels, augment=broken):
            seen.append(len(batch.labels))
    assert seen == [4, 4] and not threads()


def test_batches_are_prepared_ahead_by_two_and_no_more(images, labels):
    made, other_threads = [], []

    def apply(batch, draws):
        made.append(int(draws["number"][0]))
        other_threads.append(threading.current_thread() is not threading.main_thread())
        return batch

    counting = augment.Augment(lambda key, count: {"number": torch.arange(count)}, apply)
    batches = epoch(images, labels, augment=counting, batch_size=1)
    next(batches)
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert made == [0, 1, 2]  # one handed out, two ahead
    assert len(list(batches)) == 10 and made == list(range(11)) and all(other_threads)


def test_eval_batches_are_the_rows_in_order(images):
    batches = list(resident.eval_batches(images, ROWS, batch_size=4))
    assert [len(batch) for batch in batches] == [4, 4, 3]
    assert torch.equal(torch.cat(batches), images[ROWS])
    assert list(resident.eval_batches(images, ROWS[:0], batch_size=4)) == []


def test_a_batch_of_no_images_is_refused(images, labels):
    with pytest.raises(ValueError, match="batch_size=0"):
        epoch(images, labels, batch_size=0)
    with pytest.raises(ValueError, match="batch_size=-1"):
        list(resident.eval_batches(images, ROWS, batch_size=-1))


def test_channel_statistics_are_numpys(images, monkeypatch):
    monkeypatch.setattr(resident, "_STATISTICS_PIXELS", 100)  # chunks of 4 images
    mean, std = resident.channel_statistics(images, ROWS)
    pixels = images[ROWS].numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(std, pixels.std((0, 1, 2)), rtol=1e-13)
    assert all(type(value) is float for value in mean + std)


def test_channel_statistics_of_one_colour_can_be_divided_by(images):
    flat = torch.full((3, 2, 2, 3), 51, dtype=torch.uint8)  # 51 / 255 = 0.2
    mean, std = resident.channel_statistics(flat, torch.arange(3))
    assert mean == pytest.approx((0.2, 0.2, 0.2)) and std == (1 / 255,) * 3
    with pytest.raises(ValueError, match="no rows"):
        resident.channel_statistics(images, ROWS[:0])
