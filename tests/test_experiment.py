"""The phase loop: what a phase's training is given, and that it doesn't wait for the device."""

import weakref
from dataclasses import replace
from functools import partial

import pytest
import reference
import tiny
import torch

from cil_func import experiment, model, optim, tree
from cil_func.config import load
from cil_func.data import batches
from cil_func.data.augmentation import augment
from cil_func.data.images import Resident
from cil_func.errors import NonFiniteError
from cil_func.networks.network import Model
from cil_func.runs import setup
from cil_func.training import inference, recipe, stage, step_state
from cil_func.training.epochs import Position
from cil_func.training.preprocess import Preprocess
from cil_func.training.progress import Progress, SaveHook


def build(method: str, *overrides: str) -> experiment.Experiment:
    """The digits in phases of 4, 4 and 2 classes."""
    settings = ["data.increment=4", f"method.name={method}", "run.device=cpu", *overrides]
    return setup.build(load("digits", settings)).experiment


def learned_model(device: str = "cpu") -> Model:
    """A model of 4 classes."""
    return Model(*tree.cast(model.init(3, "resnet20", 4), device=device))


def train(made: experiment.Experiment, phase, progress: Progress, *, emit=lambda event: None, hook=None) -> Progress:
    student = partial(experiment.expand, made, phase, progress.learned, 7, progress.exemplars)
    teach = partial(experiment.teacher, made, phase, progress.learned)
    return experiment.train(
        made, phase, progress, student, teach, 7, emit=emit, hook=hook or SaveHook(), evaluate=lambda *_, **__: {}
    )


def with_recipes(made: experiment.Experiment, **changes) -> experiment.Experiment:
    return replace(made, recipe=lambda phase, name, found=made.recipe: replace(found(phase, name), **changes))


def test_the_teacher_is_the_last_model_at_full_width():
    """Its logits of the 4 classes that it knows are torch.nn's; the others, which no loss may use, are 0."""
    made, learned = build("wa"), learned_model()
    images = made.train_images.pixels[:7]
    taught = experiment.teacher(made, made.scenario.phases[1], learned, used=True)(images)
    network = reference.load(20, *learned).eval()
    with torch.no_grad():
        logits, features = network(made.preprocess(images, torch.float32))
    assert taught.logits.shape == (7, 10) and not taught.logits[:, 4:].any()
    torch.testing.assert_close(taught.logits[:, :4], logits)
    torch.testing.assert_close(taught.features, features)


@pytest.mark.parametrize("method", ["wa", "finetune", "podnet", "der"])
def test_in_phase_0_the_teacher_says_zeros_of_the_later_shapes_and_dtypes(method):
    """Else the phases would be two graphs. A method that uses no teacher has none in any phase."""
    made = build(method)
    images, phases = made.train_images.pixels[:7], made.scenario.phases
    used, learned = made.method.uses_teacher, experiment.expand(made, phases[0], None, 7, {})
    first = experiment.teacher(made, phases[0], None, used=used)(images)
    later = experiment.teacher(made, phases[1], learned, used=used)(images)
    if method == "finetune":
        assert first is None and later is None
        return
    assert len(first.aux) == len(later.aux) == {"wa": 0, "podnet": 4, "der": 1}[method]
    assert later.features.shape == (7, made.network.feature_dim)
    for zeros, said in zip(tree.leaves(first), tree.leaves(later), strict=True):
        assert not zeros.any() and said.any()
        assert (zeros.shape, zeros.dtype) == (said.shape, said.dtype)


@pytest.mark.parametrize("backend", ["pil", "device"])
def test_on_a_gpu_every_call_of_the_teacher_is_the_compiled_one(backend, monkeypatch):
    """Two epochs of 12 images each in batches of 5, where the forward graph takes 8: no call of another size."""
    made = build("wa", "optim.batch_size=5", f"augment.backend={backend}", "augment.auto_augment=rand-m9")
    monkeypatch.setattr(stage, "CapturedSteps", lambda *arguments, most: stage.EagerSteps(*arguments))
    monkeypatch.setitem(batches.PILLOW_PIXELS, "cpu", 8 * 64)
    sizes = []

    def forward(params, state, images):
        sizes.append(len(images))
        return torch.zeros(len(images), 64), {}

    made = with_recipes(
        made, epochs=2, step=lambda train_state, *_: (train_state, step_state.nothing_measured(train_state))
    )
    filled = replace(made.forward, function=forward, batch_size=8, fill=True)
    phase = replace(made.scenario.phases[1], train_rows=made.scenario.phases[1].train_rows[:12])
    train(replace(made, forward=filled, captured=True), phase, Progress(phase=1, learned=learned_model()))
    assert set(sizes) == {8} and len(sizes) >= 2


@pytest.mark.parametrize(("norm_batch", "rows"), [(0, 256), (96, 192)])
def test_a_batch_larger_than_the_phase_costs_little_more_than_the_phase(norm_batch, rows, monkeypatch):
    """150 images in a batch of 1024: a step of 256 rows, or of two groups of 96; its weights are those of 150 rows."""
    tiny.shallow(monkeypatch)
    sizes = []

    def fake_compile(function, **_):
        def call(*args):
            sizes.append(len(args[2].labels))
            return function(*args)

        return call

    monkeypatch.setattr(torch, "compile", fake_compile)
    results = []
    for batch_size in (150, 1024):
        made = build(
            "finetune", "run.compile=true", "run.precision=float64", "optim.epochs=2", f"optim.batch_size={batch_size}",
            f"optim.norm_batch={norm_batch}",
        )  # fmt: skip
        phase = replace(made.scenario.phases[0], train_rows=made.scenario.phases[0].train_rows[:150])
        results.append(train(made, phase, Progress()).training.train_state[:3])
    assert sizes == [150] * 2 + [rows] * 2
    tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11), *results)


def test_the_state_that_a_stage_begins_with_is_not_kept(monkeypatch):
    """After a step there is another one: a large model would be in memory twice."""
    made, begin, alive = build("finetune", "optim.batch_size=16", "optim.norm_batch=0"), step_state.start, []
    first: list[weakref.ref] = []

    def noted(*arguments):
        found = begin(*arguments)
        first.extend(map(weakref.ref, tree.leaves(found.params)))
        return found

    class Counting(SaveHook):
        def at_border(self, make, boundary):
            alive.append(sum(leaf() is not None for leaf in first))
            if len(alive) == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(step_state, "start", noted)
    with pytest.raises(KeyboardInterrupt):
        train(made, made.scenario.phases[0], Progress(), hook=Counting())
    assert alive == [len(first), 0]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_state_that_is_not_finite_is_named(value):
    weights, velocity = {"a": torch.zeros(2, 3), "none": torch.zeros(0)}, {"a": torch.zeros(3, dtype=torch.float64)}
    stage.refuse_infinite(step_state.TrainState(weights, {}, velocity, None), 1, Position(2, 3))
    weights["a"][1, 2] = velocity["a"][0] = torch.finfo(torch.float32).max  # whose sum would not be finite
    stage.refuse_infinite(step_state.TrainState(weights, {}, velocity, None), 1, Position(2, 3))
    velocity["a"][1] = value
    with pytest.raises(NonFiniteError, match=r"phase 1, epoch 2, step 3: optimiser\.a is not finite"):
        stage.refuse_infinite(step_state.TrainState(weights, {}, velocity, None), 1, Position(2, 3))


def test_an_epoch_never_waits_for_the_device(monkeypatch):
    """On "meta", tensors have no values: reading one raises. The first to do so looks back on the whole epoch."""
    tiny.shallow(monkeypatch)
    there, settings = torch.device("meta"), {"auto_augment": "rand-m9-mstd0.5-inc1", "crop_padding": 1, "flip": True}
    monkeypatch.setitem(augment.CHUNK_PIXELS, "meta", 2 * 80 * 64)  # chunks of 2 steps
    made = build("wa", "optim.batch_size=80")
    preprocess = Preprocess(*(leaf.to(there) for leaf in made.preprocess))
    forward = inference.forward_of(made.network, preprocess, dtype=torch.float32)
    maker = recipe.RecipeMaker(made.network, preprocess, torch.float32, made.processes)
    numbers = load("digits", ["optim.batch_size=80"]).optim_of_phase(1)
    made = replace(
        made,
        train_images=Resident(made.train_images.pixels.to(there)),
        preprocess=preprocess,
        augment=augment.device(**settings),
        forward=replace(made.forward, function=forward, device=there),
        recipe=lambda phase, name: maker.make(made.method.main, numbers, optim.sgd(momentum=0.9)),
    )
    exemplars = {label: made.scenario.phases[0].train_rows[label::4][:10] for label in range(4)}
    progress = Progress(phase=1, learned=learned_model("meta"), exemplars=exemplars)
    events = []
    with pytest.raises(Exception, match=r"[Mm]eta") as failure:
        train(made, made.scenario.phases[1], progress, emit=events.append)
    assert failure.traceback[-1].name == "refuse_failed"
    count = len(made.scenario.phases[1].train_rows) + 40
    assert sum(event["images"] for event in events if event["event"] == "progress") == count > 300


def test_class_means_over_mirror_images_are_those_of_both():
    """By torch's own operations: normalise each feature, mean over a class, normalise again."""
    made = build("icarl", "memory.mirror_means=true")
    learned, phase = learned_model(), made.scenario.phases[0]
    labels = made.scenario.train_labels[phase.train_rows]
    exemplars = {label: phase.train_rows[labels == label][:3] for label in range(4)}
    found = experiment.class_means(made, phase, learned, exemplars)
    for label, rows in exemplars.items():
        images = made.train_images.pixels[rows]
        both = torch.cat([images, images.flip(2)])  # (6, H, W, 3): W is turned
        with torch.no_grad():
            features = reference.load(20, *learned).eval()(made.preprocess(both, torch.float32))[1]
        expected = torch.nn.functional.normalize(features, dim=1).mean(0)
        torch.testing.assert_close(found[label].float(), torch.nn.functional.normalize(expected, dim=0))
    plain = experiment.class_means(build("icarl"), phase, learned, exemplars)
    assert not torch.allclose(plain, found, atol=1e-3)
