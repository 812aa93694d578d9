"""Policy strings and draws against timm: its tables, its arguments, its own sampling."""

import math
import random
from collections import Counter
from itertools import chain
from unittest import mock

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from timm.data import auto_augment as timm_ops

from cil_func.data.augmentation import operations, randaugment
from cil_func.errors import ConfigError

POLICIES = (
    "rand-m9-mstd0.5-inc1",
    "rand-m9-n3-mstd0.5",
    "rand",
    "rand-m5-p0.8-inc1",
    "rand-m15-mstd2-mmax20-inc1-n1",
    "rand-m7-mstd101",
    "rand-m30-mmax40",
    "rand-m9-mstd1-tweights",
    "rand-n4-tweights-p1",
    "rand-m6-mstd1-t3a",
    "rand-m9-mstd0.5-t3aw-n3",
)
TIMM_FUNCTIONS = {  # timm's function -> our name; each is called with the argument behind the image
    "auto_contrast": "auto_contrast", "equalize": "equalize", "invert": "invert", "posterize": "posterize",
    "solarize": "solarize", "solarize_add": "solarize_add", "brightness": "brightness", "contrast": "contrast",
    "color": "color", "sharpness": "sharpness", "gaussian_blur": "blur", "shear_x": "shear_x", "shear_y": "shear_y",
    "translate_x_rel": "translate_x", "translate_y_rel": "translate_y", "rotate": "rotate",
    "desaturate": "color",
}  # fmt: skip


def timms(policy):
    return timm_ops.rand_augment_transform(policy, {"img_mean": (1, 2, 3)})


def timm_draws(policy, count):
    """Returns what timm would do to `count` images: for each a list of (operation, argument)."""
    transform = timms(policy)
    log = []

    def recorder(function):
        def record(image, *arguments, **_):
            value = arguments[0] if arguments else 0.0
            if function == "desaturate":
                value = min(1.0, max(0.0, 1.0 - value))
            log[-1].append((TIMM_FUNCTIONS[function], float(value)))
            return image

        return record

    for operation in transform.ops:
        operation.aug_fn = recorder(operation.aug_fn.__name__)
    random.seed(3)
    np.random.seed(3)
    for _ in range(count):
        log.append([])
        transform(None)
    return log


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_reads_as_timm_reads_it(policy):
    ours, theirs = randaugment.parse(policy), timms(policy)
    first = theirs.ops[0]
    weights = dict(zip([op.name for op in theirs.ops], theirs.choice_weights if ours.weights else [], strict=False))
    assert sorted(ours.choices) == sorted(op.name for op in theirs.ops)
    assert (ours.layers, ours.probability, ours.magnitude) == (theirs.num_layers, first.prob, first.magnitude)
    assert (ours.deviation, ours.limit) == (first.magnitude_std, first.magnitude_max or 10)
    if ours.weights:
        total = sum(ours.weights)
        for name, weight in zip(ours.choices, ours.weights, strict=True):
            assert weight / total == pytest.approx(weights[name])


@pytest.mark.parametrize("name", randaugment._MEANINGS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_levels_become_arguments_as_timms(name, sign):
    magnitudes = np.concatenate([np.linspace(0, 40, 401), np.arange(0, 10.1, 0.625)])
    what, convert = randaugment._MEANINGS[name]
    ours = convert(torch.tensor(magnitudes) / 10, torch.tensor(sign))
    level_to_arg = timm_ops.LEVEL_TO_ARG[name] or (lambda *_: (0.0,))
    with mock.patch.object(timm_ops.random, "random", lambda: 0.25 if sign > 0 else 0.75):
        theirs = [float(level_to_arg(magnitude, {})[0]) for magnitude in magnitudes]
    if name == "Desaturate":
        theirs = [min(1.0, max(0.0, 1.0 - value)) for value in theirs]
    assert what == TIMM_FUNCTIONS[timm_ops.NAME_TO_OP[name].__name__]
    assert ours.tolist() == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("policy", POLICIES)
def test_draws_are_distributed_as_timms(policy):
    count = 8_000
    draws = randaugment.draw(randaugment.parse(policy), 8, count)
    log = timm_draws(policy, count)
    layers = draws["operation"].shape[1]
    ours = torch.bincount(draws["operation"].flatten().long(), minlength=len(operations.OPERATIONS)).double()
    arguments = {name: [] for name in operations.OPERATIONS}
    for name, value in chain.from_iterable(log):
        arguments[name].append(value)
    theirs = torch.tensor([len(values) for values in arguments.values()], dtype=torch.float64)
    theirs[0] = count * layers - theirs.sum()
    used = theirs + ours > 0
    chi_square = ((ours - theirs)[used] ** 2 / (ours + theirs)[used]).sum()
    degrees = int(used.sum()) - 1
    assert chi_square < degrees + 5 * math.sqrt(2 * max(degrees, 1)) + 5
    for code, (name, values) in enumerate(arguments.items()):
        mine = draws["argument"][draws["operation"] == code]
        if name != "none" and len(mine) > 30:
            mine, values = mine.numpy().round(9), np.round(values, 9)  # the last bits may differ
            assert ks_2samp(mine, values, method="asymp").pvalue > 1e-5, name


def test_layers_are_drawn_with_replacement_and_apart():
    draws = randaugment.draw(randaugment.parse("rand-m9-mstd0.5-inc1"), 2, 20_000)
    first, second = draws["operation"].unbind(1)
    both = (first > 0) & (second > 0)
    assert abs(both.double().mean() - 1 / 4) < 0.02
    assert abs(((first == second) & both).double().mean() - 1 / 4 / 15) < 0.005
    rotated = (first == second) & (first == operations.OPERATIONS.index("rotate"))
    ours = draws["argument"][rotated]  # one sign and one magnitude each: two layers are two draws
    assert len(ours) > 10 and 0.2 < (ours[:, 0].sign() == ours[:, 1].sign()).double().mean() < 0.8


def test_weighted_layers_are_drawn_as_timms_without_replacement():
    policy, count = "rand-n2-tweights-p1", 10_000
    draws = randaugment.draw(randaugment.parse(policy), 2, count)
    names = operations.OPERATIONS
    ours = Counter((names[first], names[second]) for first, second in draws["operation"].tolist())
    theirs = Counter((first, second) for (first, _), (second, _) in timm_draws(policy, count))
    both = set(ours) | set(theirs)
    chi_square = sum((ours[pair] - theirs[pair]) ** 2 / (ours[pair] + theirs[pair]) for pair in both)
    assert chi_square < len(both) + 5 * math.sqrt(2 * len(both))
    assert all(first != second for first, second in both)


def test_same_key_same_draws():
    policy = randaugment.parse("rand-m9-mstd0.5-inc1")
    first, second, other = (randaugment.draw(policy, key, 500) for key in (4, 4, 5))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["operation"], other["operation"])
    assert first["operation"].shape == first["argument"].shape == (500, 2)


@pytest.mark.parametrize(
    "bad",
    ["rand2-m9", "rand-m9.5", "rand-msd1", "rand-inc", "rand-mstdinf", "v0", "rand-m9-m8", "rand-", "",
     "rand-n16-tweights", "rand-n15-t3aw", "rand-m٣"],
)  # fmt: skip
def test_a_string_that_is_not_a_policy_is_refused(bad):
    with pytest.raises(ConfigError) as caught:
        randaugment.parse(bad)
    assert "augment.auto_augment" in str(caught.value) and repr(bad) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_layer_changes_nothing():
    draws = randaugment.draw(randaugment.parse("rand-n0"), 1, 3)
    images = torch.arange(3 * 3 * 64, dtype=torch.int32).to(torch.uint8).view(3, 3, 8, 8)
    out = operations.apply(images, **draws, fill=torch.zeros(3, dtype=torch.uint8))
    assert torch.equal(out, images)
