"""The loop over epochs: what it runs, what it tells, and when it stops."""

from types import SimpleNamespace

import pytest
import torch

from cil_func.data.batches import Batch, Chunk
from cil_func.errors import NonFiniteError
from cil_func.methods import Classes, Outputs
from cil_func.training.epochs import Position, fit, refuse_failed
from cil_func.training.runners import EagerSteps
from cil_func.training.step_state import NEVER, PADDING, Health, Measures, TrainState

CLASSES = Classes(torch.ones(2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool))
SPLIT = {6: (3, 3), 2: (2,)}  # images of each step of a chunk


def chunks(epoch: int, first_step: int = 0):
    """8 images in chunks of 6 and 2, all labelled with the epoch."""
    for start, size in ((0, 6), (2, 2)):
        batch = Batch(torch.zeros(size, 1, 1, 3, dtype=torch.uint8), torch.full((size,), epoch))
        if first_step < start + len(SPLIT[size]):
            yield Chunk(batch, SPLIT[size], SPLIT[size], done=max(0, first_step - start))


def count_step(train_state, taught, batch, classes, rate):
    """Adds up images x rate; the loss of an image is 2 + the epoch, one a batch is right."""
    size = (batch.labels != PADDING).sum()
    moved = train_state._replace(params={"sum": train_state.params["sum"] + size * rate})
    return moved, Measures((2.0 + batch.labels[0]) * size, torch.tensor(1), rate, 2 * rate, 3 * rate)


def numbers(*, epochs=2, padded_to=0):
    """What `fit` reads of a recipe: batches of 3, a rate that halves each epoch."""
    return SimpleNamespace(
        epochs=epochs, batch_size=3, padded_to=padded_to, dtype=torch.float32, rate=lambda epoch: 0.5**epoch
    )


def train(step, *, steps=None, epochs=2, padded_to=0, **changes):
    """Two epochs of `step` in batches of 3; the train state after them."""
    settings = {"chunks": chunks, "teach": lambda images: None, "emit": lambda event: None, **changes}
    steps = steps or EagerSteps(step, start(), CLASSES)
    fit(steps, numbers(epochs=epochs, padded_to=padded_to), **settings)
    return steps.snapshot()[0]


def start() -> TrainState:
    return TrainState({"sum": torch.zeros(())}, {}, {}, None)


def test_runs_every_batch_at_the_epochs_rate_and_reports_means():
    events, seen, steps = [], [], EagerSteps(count_step, start(), CLASSES)
    finished = train(
        count_step,
        steps=steps,
        emit=events.append,
        after_epoch=lambda epoch: seen.append((epoch, float(steps.snapshot()[0].params["sum"]))),
    )
    assert finished.params["sum"] == 8 * 1 + 8 * 0.5
    assert seen == [(0, 8.0), (1, 12.0)]
    assert [event["images"] for event in events if event["event"] == "progress"] == [3, 3, 2, 3, 3, 2]
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [event["loss"] for event in epochs] == [2.0, 3.0]
    assert [event["train_top1"] for event in epochs] == [37.5, 37.5]  # 3 of 8
    assert [event["learning_rate"] for event in epochs] == [1.0, 0.5]
    assert [event["images"] for event in epochs] == [8, 8]
    norms = ("gradient_norm", "weight_norm", "update_norm")  # means over steps of the rate, 2 and 3 times it
    assert [[event[name] for name in norms] for event in epochs] == [[1.0, 2.0, 3.0], [0.5, 1.0, 1.5]]


def test_each_step_is_told_which_share_of_the_epochs_is_done():
    """Also where the training goes on in the middle; and classes without it stay without it."""
    seen = []

    def step(train_state, taught, batch, classes, rate):
        seen.append(float(classes.progress))
        return count_step(train_state, taught, batch, classes, rate)

    for first, expected in (((0, 0), [0.0] * 3 + [0.25] * 3), ((1, 2), [0.25])):
        steps = EagerSteps(step, start(), CLASSES._replace(progress=torch.zeros(())))
        fit(steps, numbers(epochs=4), chunks=chunks, teach=lambda images: None, emit=lambda event: None, start=first)
        assert seen[: len(expected)] == expected and seen[-3:] == [0.75] * 3
        seen.clear()


@pytest.mark.parametrize("padded", [0, 3])
def test_the_teacher_sees_a_chunk_at_a_time_and_each_batch_gets_its_part(padded):
    seen, given = [], []

    def teach(images):
        seen.append(len(images))
        return Outputs(torch.arange(len(images))[:, None] + 1.0, torch.zeros(len(images), 2))

    def step(train_state, taught, batch, classes, rate):
        given.append((taught.logits[:, 0].tolist(), batch.labels.tolist()))
        return count_step(train_state, taught, batch, classes, rate)

    finished = train(step, teach=teach, epochs=1, padded_to=padded)
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
        classes = CLASSES

        def __call__(self, *arguments):
            pass

        def measures(self):
            return Measures(*(Watched() for _ in Measures._fields))

        def health(self):
            return None

    def asked(epoch, first_step):
        order.append(epoch)
        return chunks(epoch)

    fit(Steps(), numbers(), chunks=asked, teach=lambda images: None, emit=lambda event: None)
    assert order == [0, 1] + ["read"] * 2 * len(Measures._fields)


@pytest.mark.parametrize("at", [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)])
def test_going_on_from_any_border_is_the_same_training(at):
    """Stopped before a step by an exception, and gone on with from what the steps hold then."""

    class Stop(Exception):
        pass

    def stop(position):
        if position == at:
            raise Stop

    whole, steps, events = [], EagerSteps(count_step, start(), CLASSES), []
    expected = train(count_step, emit=whole.append)
    with pytest.raises(Stop):
        train(count_step, steps=steps, before_step=stop, emit=events.append)
    train_state, totals = steps.snapshot()
    steps = EagerSteps(count_step, train_state, CLASSES, totals)
    found = train(count_step, steps=steps, start=at, emit=events.append)
    assert found.params["sum"] == expected.params["sum"]
    told = [[(e.get("loss"), e["images"], e["epoch"]) for e in events] for events in (events, whole)]
    assert told[0] == told[1]


def test_every_border_is_told_before_its_step():
    borders = []
    train(count_step, before_step=borders.append)
    assert borders == [Position(epoch, step) for epoch in (0, 1) for step in (0, 1, 2)]


def test_a_step_that_was_not_finite_is_named():
    health = Health(*map(torch.tensor, (9, 7, 5)))  # 9 steps taken, the one numbered 7 failed
    named = r"phase 2, epoch 2, step 1: entry 5 is not finite"
    with pytest.raises(NonFiniteError, match=named):
        refuse_failed(health, phase=2, steps_per_epoch=3, name=lambda entry: f"entry {entry}")
    well = health._replace(failed_step=torch.tensor(NEVER))
    refuse_failed(well, phase=2, steps_per_epoch=3, name=lambda entry: "")


def test_health_is_looked_at_once_an_epoch():
    seen = []
    train(count_step, check=seen.append)
    assert seen == [None, None]
