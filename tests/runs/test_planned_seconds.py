"""How long a run will take: the arithmetic from times that are given, and the plan's line. No time is judged."""

import pytest
import tiny
import torch

import train
from cil_func import config
from cil_func.errors import NonFiniteError
from cil_func.runs import planned_seconds, setup, trial_steps

CPU = torch.device("cpu")


def marks(**given):
    return planned_seconds._Marks(CPU, **given)


def test_whole_epochs_are_counted_without_the_first_one():
    assert marks(epochs=[(100, 9.0), (100, 2.0), (50, 1.0)]).image_seconds(64) == 3 / 150
    assert marks(epochs=[(100, 9.0)], steps=[(9.0, 1, 100)]).image_seconds(64) == 9 / 100  # there is no other


def test_an_image_costs_its_share_of_a_step_and_of_a_chunk():
    """Chunks of 4 steps of 10 images: the chunk takes 6 s, a step 1 s; the last step is the second chunk's first."""
    steps = [(7.0, 1, 10), (8.0, 1, 10), (9.0, 1, 10), (10.0, 1, 10), (17.0, 2, 10)]
    assert marks(chunks=[0.0, 10.0], steps=steps).image_seconds(40) == pytest.approx(1 / 10 + 6 / 40)


def test_the_first_chunk_of_what_is_compiled_does_not_count():
    steps = [(97.0, 1, 10), (98.0, 1, 10), (105.0, 2, 10), (106.0, 2, 10)]
    found = marks(chunks=[0.0, 98.0], steps=steps, compiling=90.0)
    assert found.image_seconds(20) == pytest.approx(1 / 10 + 6 / 20)


def test_steps_that_have_a_chunk_each():
    steps = [(5.0, 1, 10), (8.0, 2, 10), (11.0, 3, 10)]
    assert marks(chunks=[0.0, 5.0, 8.0], steps=steps).image_seconds(10) == pytest.approx(3 / 10)


def test_images_of_all_epochs_stages_and_passes_are_counted():
    flags = ("data.increment=4", "optim.epochs=5", "optim.eval_every_epochs=2", "memory.size=20", "method.name=bic")
    made = setup.build(config.load("digits", tiny.settings(*flags, "data.validation=0.5"))).experiment
    first, second = made.scenario.phases[:2]
    assert planned_seconds._images_trained(made, first) == 5 * 4 * 9
    # 36 new images and 20 exemplars, of which 4 and as many new ones are held out for the stage of 200 epochs
    held = 4 + 4
    assert planned_seconds._images_trained(made, second) == 5 * (36 + 20 - held) + 200 * held
    # 16 test images, 72 for validation, twice between epochs on these; 36 new images, 2 exemplars of each of 8 classes
    assert planned_seconds._images_passed(made, second) == 16 + 72 + 2 * 72 + 36 + 16


def test_the_plan_says_it_and_the_random_weights_leave_nothing(capsys, monkeypatch):
    tiny.shallow(monkeypatch)
    more = ("optim.epochs=2", "method.name=derpp", "memory.size=20")  # with logits stored of exemplars
    assert train.main([*tiny.flags(*more), "--dry-run"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("time: ")]
    assert "on this machine now, of which training 0:00:" in line


def test_random_weights_whose_loss_is_not_finite_are_no_mistake(monkeypatch):
    def train(*_, **__):
        raise NonFiniteError("phase 0")

    monkeypatch.setattr(trial_steps, "train", train)
    monkeypatch.setattr(planned_seconds, "_forward_seconds", lambda *_: (0.0, 0.0))
    ready = setup.build(config.load("digits", tiny.settings("data.increment=5")))
    assert planned_seconds.of(ready) == [
        "time: not known, since the loss of the random weights it was timed with is not finite"
    ]


def test_lines_say_what_compiling_took():
    text = "\n".join(planned_seconds.lines(planned_seconds.Estimate(3600.0, 60.0, 75.0)))
    assert "about 1:01:00 on this machine now, of which training 1:00:00 and evaluation 0:01:00" in text
    assert "compiling took 0:01:15 here" in text
