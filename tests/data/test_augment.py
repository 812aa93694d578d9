"""Augmentation, each step against an independent way to do it."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torchvision.transforms import functional as tvf

from cil_func.data import augment
from cil_func.errors import ConfigError

POLICY = "rand-m9-mstd0.5-inc1"
MEAN = (0.5071, 0.4865, 0.4409)


@pytest.fixture
def images():
    return torch.from_numpy(np.random.RandomState(0).randint(0, 256, (40, 12, 10, 3), dtype=np.uint8))


def test_off_is_the_identity(images):
    nothing = augment.pil()
    assert nothing.draw(1, 40) == {}
    assert nothing.apply(images, {}) is images


@pytest.mark.parametrize(("padding", "flip"), [(2, True), (3, False), (0, True)])
def test_crop_and_flip_against_brute_force(images, padding, flip):
    both = augment.pil(crop_padding=padding, flip=flip)
    draws = both.draw(7, 40)
    out = both.apply(images, draws)
    assert out.dtype == torch.uint8 and out.shape == images.shape
    for index, image in enumerate(images.numpy()):
        padded = np.zeros((12 + 2 * padding, 10 + 2 * padding, 3), np.uint8)
        padded[padding : padding + 12, padding : padding + 10] = image
        top = int(draws["top"][index]) if padding else 0
        left = int(draws["left"][index]) if padding else 0
        expected = padded[top : top + 12, left : left + 10]
        if flip and draws["flip"][index]:
            expected = expected[:, ::-1]
        assert np.array_equal(out[index].numpy(), expected)


def test_draws_cover_their_ranges_evenly():
    draws = augment.pil(crop_padding=2, flip=True, brightness=0.25, auto_augment=POLICY).draw(3, 5000)
    for side in ("top", "left"):
        counts = torch.bincount(draws[side], minlength=5)
        assert len(counts) == 5 and (counts - 1000).abs().max() < 150  # 5 standard deviations are 141
    assert not torch.equal(draws["top"], draws["left"])
    assert abs(draws["flip"].float().mean() - 0.5) < 0.036
    assert 0.75 <= draws["brightness"].min() < 0.76 and 1.24 < draws["brightness"].max() <= 1.25
    assert len(draws["seed"].unique()) == 5000
    assert all(draw.shape == (5000,) for draw in draws.values())


def test_brightness_never_turns_negative(images):
    draws = augment.pil(brightness=3.0).draw(0, 2000)["brightness"]
    assert 0.0 <= draws.min() < 0.02 and 3.98 < draws.max() <= 4.0


def test_brightness_is_torchvisions_on_pillow_images(images):
    bright = augment.pil(brightness=0.9)
    draws = bright.draw(5, 40)
    draws["brightness"][:3] = torch.tensor([0.0, 1.0, 1.9])
    out = bright.apply(images, draws)
    for image, factor, ours in zip(images.numpy(), draws["brightness"].tolist(), out.numpy(), strict=True):
        assert np.array_equal(np.asarray(tvf.adjust_brightness(Image.fromarray(image), factor)), ours)


def test_rand_augment_is_timms(images):
    ours = augment.pil(auto_augment=POLICY, mean=MEAN)
    draws = ours.draw(11, 40)
    out = ours.apply(images, draws)
    hparams = {"translate_const": 4, "img_mean": (129, 124, 112), "interpolation": Image.BICUBIC}  # 0.45 x 10
    theirs = rand_augment_transform(POLICY, hparams)
    # pixels don't show translate_const: the default operations translate by a share of the size
    assert augment._rand_augment(POLICY, 10, hparams["img_mean"]).ops[0].hparams == theirs.ops[0].hparams
    for image, seed, result in zip(images.numpy(), draws["seed"].tolist(), out.numpy(), strict=True):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        assert np.array_equal(np.asarray(theirs(Image.fromarray(image))), result)
    changed = (out != images).flatten(1).any(1).sum()
    assert 15 < changed < 40  # two operations, each with probability 0.5: three quarters change


def test_all_together_are_the_steps_in_order(images):
    everything = augment.pil(auto_augment=POLICY, crop_padding=1, flip=True, brightness=0.3, mean=MEAN)
    draws = everything.draw(2, 40)
    geometry = augment.pil(crop_padding=1, flip=True)
    bright, policy = augment.pil(brightness=0.3), augment.pil(auto_augment=POLICY, mean=MEAN)
    expected = geometry.apply(images, {name: draws[name] for name in ("top", "left", "flip")})
    expected = bright.apply(expected, {"brightness": draws["brightness"]})
    expected = policy.apply(expected, {"seed": draws["seed"]})
    assert torch.equal(everything.apply(images, draws), expected)


def test_same_key_same_bits_other_key_other_bits(images):
    settings = {"auto_augment": POLICY, "crop_padding": 2, "flip": True, "brightness": 0.2}
    first, second = augment.pil(**settings), augment.pil(**settings)
    before = images.clone()
    out = first.apply(images, first.draw(1, 40))
    random.seed(9)
    np.random.seed(9)
    torch.manual_seed(9)
    assert torch.equal(out, second.apply(images, second.draw(1, 40)))
    assert not torch.equal(out, first.apply(images, first.draw(2, 40)))
    assert torch.equal(images, before)


def test_a_purpose_draws_the_same_beside_others():
    alone = augment.pil(flip=True).draw(4, 50)
    beside = augment.pil(flip=True, crop_padding=4, brightness=0.1).draw(4, 50)
    assert torch.equal(alone["flip"], beside["flip"])


def test_a_batch_may_be_cut_anywhere(images):
    both = augment.pil(auto_augment=POLICY, crop_padding=2, flip=True)
    draws = both.draw(6, 40)
    parts = [both.apply(images[p], {k: v[p] for k, v in draws.items()}) for p in (slice(0, 7), slice(7, 40))]
    assert torch.equal(torch.cat(parts), both.apply(images, draws))


@pytest.mark.parametrize("fails", [False, True])
def test_global_random_states_are_put_back(images, fails, monkeypatch):
    policy = augment.pil(auto_augment=POLICY)
    draws = policy.draw(1, 40)
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.rand(), random.gauss(0, 1)
    random.seed(1)
    np.random.seed(1)
    if fails:

        def broken(image):
            random.random()
            raise RuntimeError("broken transform")

        monkeypatch.setattr(augment, "_rand_augment", lambda *_: broken)
        with pytest.raises(RuntimeError, match="broken transform"):
            policy.apply(images, draws)
    else:
        policy.apply(images, draws)
    assert (random.random(), np.random.rand(), random.gauss(0, 1)) == expected


@pytest.mark.parametrize("good", [POLICY, "rand", "rand-m9-n3-mstd0.5", "rand-tweights-p0.7", "rand-mstd101"])
def test_timms_strings_are_taken(good):
    augment.pil(auto_augment=good)


@pytest.mark.parametrize("bad", ["rand2-m9", "rand-m9.5", "rand-msd1", "rand-inc", "rand-mstdinf", "v0"])
def test_a_string_that_timm_refuses_or_ignores_is_refused(bad):
    with pytest.raises(ConfigError) as caught:
        augment.pil(auto_augment=bad)
    message = str(caught.value)
    assert "augment.auto_augment" in message and repr(bad) in message and "\n" not in message
