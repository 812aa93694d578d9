"""What the training of a phase is handed, and that it doesn't wait for the device."""

import weakref
from dataclasses import replace

import pytest
import reference
import torch

from cil_func import model, tree
from cil_func.config import load
from cil_func.data import batches
from cil_func.data.augmentation import augment
from cil_func.errors import NonFiniteError
from cil_func.networks import resnet
from cil_func.runs import setup
from cil_func.training import inference, progress, recipe, step, train_phase
from cil_func.training.epochs import Position


def build(method: str, *overrides: str) -> setup.Setup:
    """The digits in phases of 4, 4 and 2 classes."""
    return setup.build(load("digits", ["data.increment=4", f"method.name={method}", "run.device=cpu", *overrides]))


def test_the_teacher_is_the_last_model_at_full_width():
    """Its logits of the 4 classes that it knows are torch.nn's; the others, which nobody may use, are 0."""
    built = build("wa")
    learned = model.init(3, "resnet20", 4)
    images = built.train_images[:7]
    taught = train_phase.teacher(built, learned)(images)
    network = reference.load(20, *learned).eval()
    with torch.no_grad():
        logits, features = network(built.preprocess(images, torch.float32))
    assert taught.logits.shape == (7, 10) and not taught.logits[:, 4:].any()
    torch.testing.assert_close(taught.logits[:, :4], logits)
    torch.testing.assert_close(taught.features, features)


@pytest.mark.parametrize("method", ["wa", "finetune"])
def test_in_phase_0_the_teacher_says_zeros_of_the_later_shapes_and_dtypes(method):
    """Else the phases would be two graphs. A method that uses no teacher has none in any phase."""
    built = build(method)
    images = built.train_images[:7]
    first, later = (train_phase.teacher(built, learned)(images) for learned in (None, model.init(3, "resnet20", 4)))
    if method == "finetune":
        assert first is None and later is None
    else:
        for zeros, said in zip(first, later, strict=True):
            assert not zeros.any() and said.any()
            assert (zeros.shape, zeros.dtype) == (said.shape, said.dtype)


@pytest.mark.parametrize("backend", ["pil", "device"])
def test_on_a_gpu_every_call_of_the_teacher_is_the_compiled_one(backend, monkeypatch):
    """Two epochs of 12 images each in batches of 5, where the forward graph takes 8: no call of another size."""
    built = build("wa", "optim.batch_size=5", f"augment.backend={backend}", "augment.auto_augment=rand-m9")
    monkeypatch.setattr(setup.Setup, "captures", property(lambda built: True))  # as with compile on a GPU
    monkeypatch.setattr(train_phase, "CapturedSteps", lambda *arguments, most: train_phase.EagerSteps(*arguments))
    monkeypatch.setitem(batches.PILLOW_PIXELS, "cpu", 8 * 64)
    sizes = []

    def forward(params, state, images):
        sizes.append(len(images))
        return torch.zeros(len(images), 64)

    trainers = tuple(
        replace(each, epochs=2, step=lambda train_state, *_: (train_state, step.nothing_measured(train_state)))
        for each in built.trainers
    )
    built = replace(built, forward=forward, forward_batch=8, trainers=trainers)
    phase = built.scenario.phases[1]
    phase = replace(phase, train_rows=phase.train_rows[:12])
    train_phase.train(
        built, phase, progress.Progress(phase=1, learned=model.init(3, "resnet20", 4)), 7,
        emit=lambda event: None, keep=progress.Keep(), evaluate=lambda *_, **__: {},
    )  # fmt: skip
    assert set(sizes) == {8} and len(sizes) >= 2


@pytest.mark.parametrize(("norm_batch", "rows"), [(0, 256), (96, 192)])
def test_a_batch_larger_than_the_phase_costs_little_more_than_the_phase(norm_batch, rows, monkeypatch):
    """150 images in a batch of 1024: a step of 256 rows, or of two groups of 96; its weights are those of 150 rows."""
    monkeypatch.setattr(resnet, "DEPTHS", (8, 20))
    sizes = []

    def fake_compile(function, **_):
        def call(*args):
            sizes.append(len(args[2].labels))
            return function(*args)

        return call

    monkeypatch.setattr(torch, "compile", fake_compile)
    results = []
    for batch_size in (150, 1024):
        built = build(
            "finetune", "run.compile=true", "run.precision=float64", "optim.epochs=2", f"optim.batch_size={batch_size}",
            f"optim.norm_batch={norm_batch}", "model.backbone=resnet20",
        )  # fmt: skip
        small = built.config.model.model_copy(update={"backbone": "resnet8"})
        built = replace(built, config=built.config.model_copy(update={"model": small}))
        phase = built.scenario.phases[0]
        phase = replace(phase, train_rows=phase.train_rows[:150])
        done = train_phase.train(
            built, phase, progress.Progress(), 7,
            emit=lambda event: None, keep=progress.Keep(), evaluate=lambda *_, **__: {},
        )  # fmt: skip
        results.append(done.training.train_state[:3])
    assert sizes == [150] * 2 + [rows] * 2
    tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11), *results)
def test_the_state_that_a_phase_begins_with_is_not_kept(monkeypatch):
    """After a step there is another one: a large model would be in memory twice."""
    built, begin, alive = build("finetune", "optim.batch_size=16", "optim.norm_batch=0"), train_phase._begin, []
    first: list[weakref.ref] = []

    def noted(*arguments):
        made = begin(*arguments)
        first.extend(map(weakref.ref, tree.leaves(made.train_state.params)))
        return made

    class Counting(progress.Keep):
        def __call__(self, make, boundary):
            alive.append(sum(leaf() is not None for leaf in first))
            if len(alive) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(train_phase, "_begin", noted)
    with pytest.raises(KeyboardInterrupt):
        train_phase.train(
            built, built.scenario.phases[0], progress.Progress(), 7,
            emit=lambda event: None, keep=Counting(), evaluate=dict,
        )  # fmt: skip
    assert alive == [len(first), 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_state_that_is_not_finite_is_named(value):
    weights, velocity = {"a": torch.zeros(2, 3), "none": torch.zeros(0)}, {"a": torch.zeros(3, dtype=torch.float64)}
    train_phase.refuse_infinite(step.TrainState(weights, {}, velocity), 1, Position(2, 3))
    weights["a"][1, 2] = velocity["a"][0] = torch.finfo(torch.float32).max  # whose sum would not be finite
    train_phase.refuse_infinite(step.TrainState(weights, {}, velocity), 1, Position(2, 3))
    velocity["a"][1] = value
    with pytest.raises(NonFiniteError, match=r"phase 1, epoch 2, step 3: optimiser\.a is not finite"):
        train_phase.refuse_infinite(step.TrainState(weights, {}, velocity), 1, Position(2, 3))


def test_an_epoch_never_waits_for_the_device(monkeypatch):
    """On "meta", tensors have no values: whoever reads one raises. The first to do so looks back on the whole epoch."""
    there, settings = torch.device("meta"), {"auto_augment": "rand-m9-mstd0.5-inc1", "crop_padding": 1, "flip": True}
    monkeypatch.setitem(augment.CHUNK_PIXELS, "meta", 5 * 32 * 64)  # chunks of 5 steps
    built = build("wa", "optim.batch_size=32")
    preprocess = step.Preprocess(*(leaf.to(there) for leaf in built.preprocess))
    built = replace(
        built,
        device=there,
        train_images=built.train_images.to(there),
        preprocess=preprocess,
        augment=augment.device(**settings),
        forward=inference.make(preprocess, dtype=torch.float32),
        trainers=recipe.make(built.config, built.method, preprocess, torch.float32, built.processes),
    )
    learned = tree.cast(model.init(3, "resnet20", 4), device=there)
    exemplars = {label: built.scenario.phases[0].train_rows[label::4][:10] for label in range(4)}
    count = len(train_phase.train_rows(built, built.scenario.phases[1], exemplars))
    events = []
    with pytest.raises(Exception, match=r"[Mm]eta") as failure:
        train_phase.train(
            built, built.scenario.phases[1], progress.Progress(phase=1, learned=learned, exemplars=exemplars), 7,
            emit=events.append, keep=progress.Keep(), evaluate=lambda *_, **__: {},
        )  # fmt: skip
    assert failure.traceback[-1].name == "refuse_failed"
    assert sum(event["images"] for event in events if event["event"] == "progress") == count > 300
