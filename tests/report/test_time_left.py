"""The time left, compared with arithmetic. The test moves the clock."""

import pytest

from cil_func.report.time_left import TimeLeft, duration


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


START = {"event": "run_start", "train_images": [100, 200], "epochs": [10, 10]}


def phase(index, images):
    return {"event": "phase_start", "phase": index, "train_images": images, "epochs": 10}


def epoch(index, images, seconds):
    return {"event": "epoch", "epoch": index, "images": images, "seconds": seconds}


def test_unknown_until_something_is_trained_and_without_a_plan():
    left = TimeLeft(Clock())
    left(epoch(0, 100, 1.0))
    assert left.seconds() is None
    left(START)
    assert TimeLeft(Clock()).seconds() is None


def test_first_epoch_is_estimated_without_its_first_step_which_may_compile():
    clock = Clock()
    left = TimeLeft(clock)
    left(START)
    left(phase(0, 100))
    clock.now += 60  # compiling
    left({"event": "progress", "epoch": 0, "images": 20})
    assert left.seconds() is None
    clock.now += 2
    left({"event": "progress", "epoch": 0, "images": 20})
    # 20 images in 2 s; 3000 planned, 40 done
    assert left.seconds() == pytest.approx(2960 * 0.1)
    assert left.images() == 40


def test_one_slow_epoch_does_not_spoil_the_pace():
    left = TimeLeft(Clock())
    left(START)
    left(phase(0, 100))
    for index, seconds in enumerate([60.0, 1.0, 1.0]):
        left(epoch(index, 100, seconds))
    assert left.seconds() == pytest.approx((3000 - 300) * 0.01)


def test_time_outside_epochs_is_expected_of_the_later_phases_too():
    clock = Clock()
    left = TimeLeft(clock)
    left(START)
    left(phase(0, 100))
    for index in range(10):
        clock.now += 1
        left(epoch(index, 100, 1.0))
    clock.now += 7  # selection and evaluation
    left({"event": "phase_end", "phase": 0})
    assert left.seconds() == pytest.approx(2000 * 0.01 + 7)
    left(phase(1, 200))
    left({"event": "progress", "epoch": 0, "images": 50})
    assert left.seconds() == pytest.approx(1950 * 0.01 + 7)
    left(epoch(9, 200, 2.0))
    clock.now += 7
    left({"event": "phase_end", "phase": 1})
    assert left.seconds() == 0


def test_a_run_that_goes_on_inside_a_phase_counts_its_trained_images():
    left = TimeLeft(Clock())
    left(START | {"event": "resume", "phase": 1, "epoch": 4, "step": 3})  # and no phase_start
    left({"event": "progress", "epoch": 4, "images": 50})
    assert left.images() == 4 * 200 + 50
    left(epoch(4, 200, 2.0))  # 2 s for 50 images
    assert left.seconds() == pytest.approx(5 * 200 * 0.04)
    left(START | {"event": "resume", "phase": 2, "epoch": 0, "step": 0})  # after the last phase
    assert left.seconds() == 0


def test_duration():
    texts = [duration(seconds) for seconds in (None, 0.4, 59.6, 3661, 360000)]
    assert texts == ["-", "0:00:00", "0:01:00", "1:01:01", "100:00:00"]
