"""What the training of a phase is handed."""

import pytest
import reference
import torch

from cil_func import model, setup, training
from cil_func.config import load


def build(method: str) -> setup.Setup:
    """The digits in phases of 4, 4 and 2 classes."""
    return setup.build(load("digits", ["data.increment=4", f"method.name={method}", "run.device=cpu"]))


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
