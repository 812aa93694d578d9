"""What the training of a phase is handed, and that it doesn't wait for the device."""

from dataclasses import replace

import pytest
import reference
import torch

from cil_func import model, progress, setup, trainer, training, tree
from cil_func.config import load
from cil_func.data import augment
from cil_func.engine import infer, step


def build(method: str, *overrides: str) -> setup.Setup:
    """The digits in phases of 4, 4 and 2 classes."""
    return setup.build(load("digits", ["data.increment=4", f"method.name={method}", "run.device=cpu", *overrides]))


def test_the_teacher_is_the_last_model_at_full_width():
    """Its logits of the 4 classes that it knows are torch.nn's; the others, which nobody may use, are 0."""
    built = build("wa")
    learned = model.init(3, "resnet20", 4)
    images = built.train_images[:7]
    taught = training.teacher(built, learned)(images)
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
    first, later = (training.teacher(built, learned)(images) for learned in (None, model.init(3, "resnet20", 4)))
    if method == "finetune":
        assert first is None and later is None
    else:
        for zeros, said in zip(first, later, strict=True):
            assert not zeros.any() and said.any()
            assert (zeros.shape, zeros.dtype) == (said.shape, said.dtype)


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
        forward=infer.make(preprocess, dtype=torch.float32),
        trainers=trainer.make(built.config, built.method, preprocess, torch.float32, built.world),
    )
    learned = tree.cast(model.init(3, "resnet20", 4), device=there)
    exemplars = {label: built.scenario.phases[0].train_rows[label::4][:10] for label in range(4)}
    count = len(training.train_rows(built, built.scenario.phases[1], exemplars))
    events = []
    with pytest.raises(Exception, match=r"[Mm]eta") as failure:
        training.train(
            built, built.scenario.phases[1], progress.Progress(phase=1, learned=learned, exemplars=exemplars), 7,
            emit=events.append, keep=progress.Keep(), evaluate=lambda *_, **__: {},
        )  # fmt: skip
    assert failure.traceback[-1].name == "refuse_failed"
    assert sum(event["images"] for event in events if event["event"] == "progress") == count > 300
