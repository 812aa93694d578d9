"""The loop over epochs: what it runs, what it tells, and when it stops."""

import pytest
import torch

from cil_func.data.resident import Batch
from cil_func.engine.fit import fit
from cil_func.engine.step import Measures, TrainState
from cil_func.errors import NonFiniteError
from cil_func.methods import Classes

CLASSES = Classes(torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool))


def batches(epoch: int):
    """5 images in batches of 3 and 2, all labelled with the epoch."""
    return [Batch(torch.zeros(size, 1, 1, 3, dtype=torch.uint8), torch.full((size,), epoch)) for size in (3, 2)]


def count_step(train_state, teacher, batch, classes, rate):
    """Adds up images x rate; the loss of an image is 2 + the epoch, one a batch is right."""
    size = len(batch.labels)
    moved = train_state._replace(params={"sum": train_state.params["sum"] + size * rate})
    return moved, Measures(torch.tensor(2.0 + batch.labels[0].item()) * size, torch.tensor(1))


def start() -> TrainState:
    return TrainState({"sum": torch.zeros(())}, {}, {})


def test_runs_every_batch_at_the_epochs_rate_and_reports_means():
    events, seen = [], []
    finished = fit(
        count_step, start(), None, CLASSES, phase=2, batches=batches, rate=lambda epoch: 0.5**epoch, epochs=2,
        emit=events.append,
        after_epoch=lambda epoch, train_state: seen.append((epoch, float(train_state.params["sum"]))),
    )  # fmt: skip
    assert finished.params["sum"] == 5 * 1 + 5 * 0.5
    assert seen == [(0, 5.0), (1, 7.5)]
    assert [event["images"] for event in events if event["event"] == "progress"] == [3, 2, 3, 2]
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [event["loss"] for event in epochs] == [2.0, 3.0]
    assert [event["train_top1"] for event in epochs] == [40.0, 40.0]  # 2 of 5
    assert [event["learning_rate"] for event in epochs] == [1.0, 0.5]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_after_its_epoch(loss):
    def broken(train_state, teacher, batch, classes, rate):
        value = loss if batch.labels[0] == 1 else 1.0
        return train_state, Measures(torch.tensor(value), torch.tensor(0))

    with pytest.raises(NonFiniteError, match="phase 2, epoch 1"):
        fit(
            broken, start(), None, CLASSES, phase=2, batches=batches, rate=lambda epoch: 0.1, epochs=3,
            emit=lambda event: None,
        )  # fmt: skip
