"""Augmentation: each change against an independent implementation."""

import hashlib
import random

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from timm.data import auto_augment
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import functional as tvf

from cil_func.data.augmentation import augment, operations, rectangles
from cil_func.errors import ConfigError

POLICY = "rand-m9-mstd0.5-inc1"
MEAN = (0.5071, 0.4865, 0.4409)
EVERYTHING = {
    "auto_augment": POLICY,
    "crop_padding": 2,
    "flip": True,
    "brightness": 0.2,
    "contrast": 0.3,
    "saturation": 0.4,
    "erasing": 0.5,
    "mean": MEAN,
}


@pytest.fixture
def images():
    return torch.from_numpy(np.random.RandomState(0).randint(0, 256, (40, 12, 10, 3), dtype=np.uint8))


@pytest.mark.parametrize("backend", [augment.device, augment.pil])
def test_off_is_the_identity(images, backend):
    nothing = backend()
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
    draws = augment.pil(
        crop_padding=2, flip=True, brightness=0.25, contrast=0.5, saturation=1.0, auto_augment=POLICY
    ).draw(3, 5000)
    for side in ("top", "left"):
        counts = torch.bincount(draws[side], minlength=5)
        assert len(counts) == 5 and (counts - 1000).abs().max() < 150  # 5 standard deviations are 141
    assert not torch.equal(draws["top"], draws["left"])
    assert abs(draws["flip"].float().mean() - 0.5) < 0.036
    assert 0.75 <= draws["brightness"].min() < 0.76 and 1.24 < draws["brightness"].max() <= 1.25
    assert 0.5 <= draws["contrast"].min() < 0.51 and 1.49 < draws["contrast"].max() <= 1.5
    assert 0.0 <= draws["saturation"].min() < 0.01 and 1.99 < draws["saturation"].max() <= 2.0
    assert len(draws["seed"].unique()) == 5000
    assert all(draw.shape == (5000,) for draw in draws.values())


def test_brightness_never_turns_negative(images):
    draws = augment.pil(brightness=3.0).draw(0, 2000)["brightness"]
    assert 0.0 <= draws.min() < 0.02 and 3.98 < draws.max() <= 4.0


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_jitter_is_torchvisions_on_pillow_images(images, name):
    jitter = augment.device(**{name: 0.9})
    draws = jitter.draw(5, 40)
    draws[name][:3] = torch.tensor([0.0, 1.0, 1.9])
    out = jitter.apply(images, draws)
    adjust = getattr(tvf, f"adjust_{name}")
    for image, factor, ours in zip(images.numpy(), draws[name].tolist(), out.numpy(), strict=True):
        assert np.array_equal(np.asarray(adjust(Image.fromarray(image), factor)), ours)


def test_jitter_goes_from_brightness_by_contrast_to_saturation(images):
    everything = augment.device(brightness=0.5, contrast=0.6, saturation=0.7)
    draws = everything.draw(5, 40)
    expected = images
    for name in ("brightness", "contrast", "saturation"):
        expected = augment.device(**{name: 0.1}).apply(expected, {name: draws[name]})
    assert torch.equal(everything.apply(images, draws), expected)


def test_earlier_draws_and_bits_stay():
    """The draws of crop, flip and brightness, as they were before other changes were added."""
    images = torch.arange(4 * 8 * 8 * 3, dtype=torch.int32).mul(7919).remainder(251).to(torch.uint8).view(4, 8, 8, 3)
    for backend in (augment.pil, augment.device):
        earlier = backend(crop_padding=2, flip=True, brightness=0.25)
        draws = earlier.draw(9, 4)
        out = earlier.apply(images, draws)
        assert list(draws) == ["top", "left", "flip", "brightness"]
        assert hashlib.sha256(out.numpy().tobytes()).hexdigest()[:16] == "9417071a238358a6"


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_boxes_are_distributed_as_timms(size):
    height, width = size
    count = 8_000
    draws = augment.device(erasing=0.4).draw(3, count)["erasing"]
    ours = rectangles.resolve(draws, height, width).numpy()  # (N, 4): top, left, rows, columns
    erasing = RandomErasing(0.4, device="cpu")
    random.seed(5)
    theirs = []
    for _ in range(count):
        image = torch.ones(1, height, width)
        erasing(image)
        rows, columns = (image[0].eq(0).any(axis).nonzero()[:, 0] for axis in (1, 0))
        theirs.append([rows[0], columns[0], len(rows), len(columns)] if len(rows) else [0, 0, 0, 0])
    theirs = np.array(theirs)
    shares = [(boxes[:, 2] > 0).mean() for boxes in (ours, theirs)]
    assert abs(shares[0] - 0.4) < 0.015 and abs(shares[1] - 0.4) < 0.015
    ours, theirs = ours[ours[:, 2] > 0], theirs[theirs[:, 2] > 0]
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column], method="asymp").pvalue > 1e-4
    for part in (0, 1):  # where a box ends
        ends = [boxes[:, part] + boxes[:, part + 2] for boxes in (ours, theirs)]
        assert ks_2samp(*ends, method="asymp").pvalue > 1e-4 and ends[0].max() == size[part]


def test_an_epochs_draws_of_erasing_take_eight_bytes_an_image():
    """For ImageNet's 1.28 million images that is 10 MB, instead of 400 MB for the ten rectangles of each."""
    bare = augment.device(crop_padding=4, flip=True)
    erased = augment.device(crop_padding=4, flip=True, erasing=0.25)
    sizes = [sum(leaf.nbytes for leaf in make.draw(1, 1000).values()) for make in (bare, erased)]
    assert sizes[1] - sizes[0] == 8 * 1000


def test_numbers_of_an_image_are_splitmix64s():
    """The published first outputs for the seed 1234567, of which 53 bits make a float."""
    published = (6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431)
    found = rectangles._uniforms(torch.tensor([7, 1234567]), 4)
    assert found[1].tolist() == [(value >> 11) / 2**53 for value in published]


def test_no_image_is_erased_or_each_one_is():
    seeds = rectangles.draw(3, 500, probability=0.0)
    assert not rectangles.resolve(seeds, 12, 10).any()
    rectangle = rectangles.resolve(rectangles.draw(3, 500, probability=1.0), 12, 10)
    assert (rectangle[:, 2:] > 0).all() and len(torch.unique(rectangle, dim=0)) > 300


@pytest.mark.parametrize("backend", [augment.device, augment.pil])
def test_erasing_comes_last_and_fills_with_the_mean(images, backend):
    everything = backend(erasing=1.0, brightness=0.5, auto_augment=POLICY, mean=MEAN)
    draws = everything.draw(1, 40)
    boxes = rectangles.resolve(draws["erasing"], 12, 10)
    bare = backend(brightness=0.5, auto_augment=POLICY, mean=MEAN)
    expected = bare.apply(images, {name: draw for name, draw in draws.items() if name != "erasing"})
    for image, (top, left, tall, wide) in zip(expected, boxes.tolist(), strict=True):
        assert tall * wide > 0
        image[top : top + tall, left : left + wide] = torch.tensor([129, 124, 112], dtype=torch.uint8)  # 255 x MEAN
    assert torch.equal(everything.apply(images, draws), expected)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (24, 40)])
def test_device_is_timm_but_for_a_level_under_the_same_draws(height, width):
    photographs = np.random.RandomState(1).randint(0, 256, (60, 6, 5, 3), dtype=np.uint8)
    arrays = [np.asarray(Image.fromarray(p).resize((width, height), Image.Resampling.BICUBIC)) for p in photographs]
    ours = augment.device(auto_augment="rand-m9-mstd0.5-inc1-n1", mean=MEAN)
    draws = ours.draw(3, 60)
    out = ours.apply(torch.from_numpy(np.stack(arrays)), draws)
    settings = {"fillcolor": (129, 124, 112), "resample": Image.Resampling.BICUBIC}
    functions = {"blur": "gaussian_blur", "translate_x": "translate_x_rel", "translate_y": "translate_y_rel"}
    plain, whole = ("auto_contrast", "equalize", "invert"), ("posterize", "solarize", "solarize_add")
    for array, code, argument, result in zip(arrays, draws["operation"], draws["argument"], out, strict=True):
        name = operations.OPERATIONS[code]
        image = Image.fromarray(array)
        if name != "none":
            given = () if name in plain else (int(argument) if name in whole else float(argument),)
            image = getattr(auto_augment, functions.get(name, name))(image, *given, **settings)
        assert np.abs(np.asarray(image).astype(int) - result.numpy()).max() <= 1


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


@pytest.mark.parametrize("backend", [augment.device, augment.pil])
def test_same_key_same_bits_other_key_other_bits(images, backend):
    first, second = backend(**EVERYTHING), backend(**EVERYTHING)
    before = images.clone()
    out = first.apply(images, first.draw(1, 40))
    random.seed(9)
    np.random.seed(9)
    torch.manual_seed(9)
    assert torch.equal(out, second.apply(images, second.draw(1, 40)))
    assert not torch.equal(out, first.apply(images, first.draw(2, 40)))
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    "name", ["top", "left", "flip", "brightness", "contrast", "saturation", "operation", "argument", "erasing"]
)
def test_a_purpose_draws_the_same_beside_others(name):
    settings = {"crop_padding": ("top", "left"), "auto_augment": ("operation", "argument")}
    own = next((setting for setting, draws in settings.items() if name in draws), name)
    alone = augment.device(**{own: EVERYTHING[own]}).draw(4, 50)
    beside = augment.device(**EVERYTHING).draw(4, 50)
    assert torch.equal(alone[name], beside[name])


@pytest.mark.parametrize("backend", [augment.device, augment.pil])
@pytest.mark.parametrize("pixels", [1, 700, 1 << 21])
def test_a_batch_may_be_cut_anywhere(images, backend, pixels, monkeypatch):
    everything = backend(**EVERYTHING)
    draws = everything.draw(6, 40)
    whole = everything.apply(images, draws)
    monkeypatch.setitem(augment.CHUNK_PIXELS, "cpu", pixels)
    cuts = (slice(0, 7), slice(7, 7), slice(7, 40))
    parts = [everything.apply(images[cut], {name: draw[cut] for name, draw in draws.items()}) for cut in cuts]
    assert torch.equal(torch.cat(parts), whole)


def test_a_batch_as_large_as_many_chunks_is_its_chunks(monkeypatch):
    """Enough images that each operation computes whole vectors and the rest of one."""
    images = torch.from_numpy(np.random.RandomState(3).randint(0, 256, (1500, 9, 11, 3), dtype=np.uint8))
    everything = augment.device(**EVERYTHING)
    draws = everything.draw(2, 1500)
    whole = everything.apply(images, draws)
    for size in (1, 37, 128):
        parts = [
            everything.apply(images[start : start + size], {n: d[start : start + size] for n, d in draws.items()})
            for start in range(0, 1500, size)
        ]
        assert torch.equal(torch.cat(parts), whole)


class Counter(TorchDispatchMode):
    """Counts the operations of torch on other devices than the CPU, with views and allocations."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):
        out = function(*arguments, **(settings or {}))
        self.count += isinstance(out, torch.Tensor) and out.device.type != "cpu" and not function.is_view
        return out


def test_nothing_waits_for_the_device_and_operations_do_not_grow_with_the_batch(monkeypatch):
    """On the device "meta" tensors have no values: code that reads one, or counts those that are not zero, raises."""
    monkeypatch.setitem(augment.CHUNK_PIXELS, "meta", 1 << 25)
    everything = augment.device(**EVERYTHING)
    counts = []
    for number in (2000, 8000):
        images = torch.empty(number, 12, 10, 3, dtype=torch.uint8, device="meta")
        with Counter() as counter:
            out = everything.apply(images, everything.draw(1, number))
        assert out.device.type == "meta" and out.shape == images.shape and out.dtype == torch.uint8
        counts.append(counter.count)
    assert counts[0] == counts[1] < 1000


class Reach(TorchDispatchMode):
    """Notes the largest index of all lookups on other devices than the CPU, which int32 has to represent."""

    def __init__(self):
        super().__init__()
        self.farthest = 0

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):
        if function in (torch.ops.aten.index_select.default, torch.ops.aten.index_add_.default):
            source, dim, index = arguments[:3]
            if index.dtype == torch.int32 and source.device.type != "cpu":
                self.farthest = max(self.farthest, source.shape[dim])
        return function(*arguments, **(settings or {}))


def chunk_of(device: str, height: int, width: int, padding: int, monkeypatch) -> int:
    """Returns the number of images of this size in the largest chunk, on "cpu" or "cuda". Computes on "meta"."""
    found = []
    with monkeypatch.context() as patch:
        patch.setitem(augment.CHUNK_PIXELS, "meta", augment.CHUNK_PIXELS[device])
        patch.setattr(augment, "_apply_chunk", lambda images, draws, **_: found.append(len(images)) or images[:0])
        count = augment.CHUNK_PIXELS[device] // (height * width) + 1
        images = torch.empty(count, height, width, 3, dtype=torch.uint8, device="meta")
        augment.device(crop_padding=padding).apply(images, {"top": torch.empty(count, device="meta")})
    return max(found)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_chunk_with_its_padding_fits_int32_for_every_configuration(device, monkeypatch):
    for side in (8, 9, 32, 224, 1023, 1024):  # of data.image_size
        for padding in (0, 4, 15, 58, 64):  # of augment.crop_padding
            padded = (side + 2 * padding) ** 2
            assert 3 * padded * chunk_of(device, side, side, padding, monkeypatch) <= 2**31 - 1, (side, padding)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    ("height", "width", "padding"),
    [(8, 8, 15), (8, 8, 64), (32, 32, 58), (1, 1, 0), (3, 3, 0), (20, 70, 64), (1, 300, 8), (1024, 1024, 64)],
)
def test_no_operation_needs_an_index_beyond_int32(device, height, width, padding, monkeypatch):
    """A whole chunk on "meta". A table has 256 entries a channel, which are more than the pixels of a 3x3 image."""
    count = chunk_of(device, height, width, padding, monkeypatch)
    monkeypatch.setitem(augment.CHUNK_PIXELS, "meta", augment.CHUNK_PIXELS[device])
    monkeypatch.setattr(operations, "_rotation", lambda *_: (0.0,) * 6)  # image by image, and not looked at
    images = torch.empty(count, height, width, 3, dtype=torch.uint8, device="meta")
    everything = augment.device(**EVERYTHING | {"crop_padding": padding})
    draws = {
        name: draw.repeat(count // 100 + 1, *[1] * (draw.ndim - 1))[:count]
        for name, draw in everything.draw(1, 100).items()
    }
    with Reach() as reach:
        everything.apply(images, draws)
    assert 0 < reach.farthest <= 2**31 - 1


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


@pytest.mark.parametrize("backend", [augment.device, augment.pil])
@pytest.mark.parametrize("good", [POLICY, "rand", "rand-m9-n3-mstd0.5", "rand-tweights-p0.7", "rand-mstd101"])
def test_timms_strings_are_taken(images, good, backend):
    ours = backend(auto_augment=good)
    out = ours.apply(images, ours.draw(1, 40))
    assert out.shape == images.shape and not torch.equal(out, images)


@pytest.mark.parametrize("backend", [augment.device, augment.pil])
@pytest.mark.parametrize("bad", ["rand2-m9", "rand-m9.5", "rand-msd1", "rand-inc", "rand-mstdinf", "v0"])
def test_a_string_that_timm_refuses_or_ignores_is_refused(bad, backend):
    with pytest.raises(ConfigError) as caught:
        backend(auto_augment=bad)
    message = str(caught.value)
    assert "augment.auto_augment" in message and repr(bad) in message and "\n" not in message
