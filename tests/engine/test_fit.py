"""The loop over epochs: what it runs, what it tells, and when it stops."""

import pytest
import torch

from cil_func.data.resident import Batch
from cil_func.engine.compile import Threaded
from cil_func.engine.fit import fit
from cil_func.engine.step import PADDING, Measures, TrainState
from cil_func.errors import NonFiniteError
from cil_func.methods import Classes, Outputs

CLASSES = Classes(torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool))


def chunks(epoch: int):
    """8 images in chunks of 6 and 2, all labelled with the epoch."""
    return [Batch(torch.zeros(size, 1, 1, 3, dtype=torch.uint8), torch.full((size,), epoch)) for size in (6, 2)]


def count_step(train_state, taught, batch, classes, rate):
    """Adds up images x rate; the loss of an image is 2 + the epoch, one a batch is right."""
    size = (batch.labels != PADDING).sum()
    moved = train_state._replace(params={"sum": train_state.params["sum"] + size * rate})
    return moved, Measures((2.0 + batch.labels[0]) * size, torch.tensor(1))


def train(step, **changes):
    """Two epochs of `step` in batches of 3."""
    settings = {
        "phase": 2, "chunks": chunks, "batch_size": 3, "teach": lambda images: None, "rate": lambda epoch: 0.5**epoch,
        "epochs": 2, "dtype": torch.float32, "emit": lambda event: None, **changes,
    }  # fmt: skip
    return fit(Threaded(step, start(), CLASSES), **settings)


def start() -> TrainState:
    return TrainState({"sum": torch.zeros(())}, {}, {})


def test_runs_every_batch_at_the_epochs_rate_and_reports_means():
    events, seen = [], []
    finished = train(
        count_step,
        emit=events.append,
        after_epoch=lambda epoch, train_state: seen.append((epoch, float(train_state().params["sum"]))),
    )
    assert finished.params["sum"] == 8 * 1 + 8 * 0.5
    assert seen == [(0, 8.0), (1, 12.0)]
    assert [event["images"] for event in events if event["event"] == "progress"] == [3, 3, 2, 3, 3, 2]
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [event["loss"] for event in epochs] == [2.0, 3.0]
    assert [event["train_top1"] for event in epochs] == [37.5, 37.5]  # 3 of 8
    assert [event["learning_rate"] for event in epochs] == [1.0, 0.5]
    assert [event["images"] for event in epochs] == [8, 8]


@pytest.mark.parametrize("padded", [False, True])
def test_the_teacher_sees_a_chunk_at_a_time_and_each_batch_gets_its_part(padded):
    seen, given = [], []

    def teach(images):
        seen.append(len(images))
        return Outputs(torch.arange(len(images))[:, None] + 1.0, torch.zeros(len(images), 2))

    def step(train_state, taught, batch, classes, rate):
        given.append((taught.logits[:, 0].tolist(), batch.labels.tolist()))
        return count_step(train_state, taught, batch, classes, rate)

    finished = train(step, teach=teach, epochs=1, padded=padded)
    assert seen == [6, 2] and finished.params["sum"] == 8
    last = ([1, 2, 0], [0, 0, -1]) if padded else ([1, 2], [0, 0])
    assert given == [([1, 2, 3], [0, 0, 0]), ([4, 5, 6], [0, 0, 0]), last]


def test_the_next_epoch_is_asked_for_before_this_ones_loss_is_read():
    """A GPU then has work while the host draws; a read waits for it."""
    order = []

    class Watched:
        def item(self):
            order.append("read")
            return 1.0

    class Steps:
        def __call__(self, *arguments):
            pass

        def measures(self):
            return Measures(Watched(), Watched())

        def train_state(self):
            return start()

    def asked(epoch):
        order.append(epoch)
        return chunks(epoch)

    fit(
        Steps(), phase=0, chunks=asked, batch_size=3, teach=lambda images: None, rate=lambda epoch: 1.0, epochs=2,
        dtype=torch.float32, emit=lambda event: None,
    )  # fmt: skip
    assert order == [0, 1, "read", "read", "read", "read"]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_after_its_epoch(loss):
    def broken(train_state, taught, batch, classes, rate):
        value = loss if batch.labels[0] == 1 else 1.0
        return train_state, Measures(torch.tensor(value), torch.tensor(0))

    with pytest.raises(NonFiniteError, match="phase 2, epoch 1"):
        train(broken, epochs=3)
