"""Operations on batches against Pillow and timm on single images: images like photographs, and extreme ones."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment as timm_ops

from cil_func.data.augmentation import geometry, kernels, operations

FILL = (1, 200, 3)
TIMM = {
    "auto_contrast": timm_ops.auto_contrast,
    "equalize": timm_ops.equalize,
    "invert": timm_ops.invert,
    "posterize": timm_ops.posterize,
    "solarize": timm_ops.solarize,
    "solarize_add": timm_ops.solarize_add,
    "brightness": timm_ops.brightness,
    "contrast": timm_ops.contrast,
    "color": timm_ops.color,
    "sharpness": timm_ops.sharpness,
    "blur": timm_ops.gaussian_blur,
    "shear_x": timm_ops.shear_x,
    "shear_y": timm_ops.shear_y,
    "translate_x": timm_ops.translate_x_rel,
    "translate_y": timm_ops.translate_y_rel,
    "rotate": timm_ops.rotate,
}
MOVING = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
ARGUMENTS = {  # of each operation, the ends included
    "posterize": np.arange(-1, 10),
    "solarize": np.linspace(0, 256, 33).astype(int),
    "solarize_add": np.linspace(0, 128, 33).astype(int),
    "blur": np.linspace(0.1, 2.0, 20),
    "shear_x": np.linspace(-0.5, 0.5, 40),
    "shear_y": np.linspace(-0.5, 0.5, 40),
    "translate_x": [*np.linspace(-0.7, 0.7, 40), 3.0, -3.0],
    "translate_y": [*np.linspace(-0.7, 0.7, 40), 3.0, -3.0],
    "rotate": [*np.linspace(-50, 50, 40), 0, 90, 180, 270, -90],
}
FACTORS = np.linspace(0, 2.5, 40)  # of the blends


def smooth_images(random, count, height, width):
    """Returns images like photographs: a few colours, enlarged by Pillow, with a little noise."""
    images = []
    for _ in range(count):
        seeds = Image.fromarray(random.randint(0, 256, (5, 4, 3), dtype=np.uint8))
        image = np.asarray(seeds.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
        images.append((image + random.randint(-3, 4, image.shape)).clip(0, 255))
    return np.stack(images).astype(np.uint8)


def image_set(name):
    random = np.random.RandomState(5)
    if name == "smooth 32x32":
        return smooth_images(random, 50, 32, 32)
    if name == "smooth 24x40":
        return smooth_images(random, 50, 24, 40)
    if name == "noise 24x40":
        return random.randint(0, 256, (50, 24, 40, 3), dtype=np.uint8)
    if name == "four levels 9x8":
        return random.randint(0, 4, (50, 9, 8, 3), dtype=np.uint8)
    return np.broadcast_to(random.randint(0, 256, (50, 1, 1, 3), dtype=np.uint8), (50, 16, 16, 3)).copy()


def planes(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def ours(name, images, arguments):
    operation = torch.full((len(images), 1), operations.OPERATIONS.index(name), dtype=torch.uint8)
    argument = torch.tensor(arguments, dtype=torch.float64)[:, None]
    out = operations.apply(planes(images), operation, argument, fill=torch.tensor(FILL, dtype=torch.uint8))
    return out.permute(0, 2, 3, 1).numpy()


def theirs(name, images, arguments):
    plain = ("auto_contrast", "equalize", "invert")
    whole = ("posterize", "solarize", "solarize_add")  # Pillow takes integers alone
    settings = {"fillcolor": FILL, "resample": Image.Resampling.BICUBIC}
    results = []
    for image, argument in zip(images, arguments, strict=True):
        given = () if name in plain else (int(argument) if name in whole else float(argument),)
        results.append(np.asarray(TIMM[name](Image.fromarray(image), *given, **settings)))
    return np.stack(results)


@pytest.mark.parametrize("kind", ["smooth 32x32", "smooth 24x40", "noise 24x40", "four levels 9x8", "one colour"])
@pytest.mark.parametrize("name", TIMM)
def test_every_operation_is_timms(name, kind):
    images = image_set(kind)
    arguments = np.resize(ARGUMENTS.get(name, FACTORS), len(images))
    out, expected = ours(name, images, arguments), theirs(name, images, arguments)
    if name in MOVING and kind != "one colour":
        # Cut to uint8, a sum in float32 may fall on the other side of an integer than Pillow's in float64: seldom,
        # and by one level; borders and fill included
        differences = np.abs(out.astype(int) - expected)
        assert differences.max() <= 1 and (differences > 0).mean() < 5e-3
    else:
        assert np.array_equal(out, expected)


@pytest.mark.parametrize("name", TIMM)
def test_an_image_does_not_depend_on_its_company(name):
    images = image_set("smooth 24x40")
    arguments = np.resize(ARGUMENTS.get(name, FACTORS), len(images))
    together = ours(name, images, arguments)
    alone = [ours(name, images[i : i + 1], arguments[i : i + 1])[0] for i in range(len(images))]
    assert np.array_equal(together, np.stack(alone))


def test_every_operation_of_the_list_is_tested():
    assert set(operations.OPERATIONS) == {"none", *TIMM}


def test_arguments_are_left_alone():
    images = planes(image_set("noise 24x40"))
    before, factors = images.clone(), torch.full((50,), 1.5)
    for change in (kernels.brightness, kernels.contrast, kernels.color, kernels.sharpness):
        change(images, factors)
    shifts = torch.full((50, 24), 3.3, dtype=torch.float64)
    geometry.slide(images, shifts, fill=torch.zeros(3, dtype=torch.uint8))
    assert torch.equal(images, before) and torch.equal(factors, torch.full((50,), 1.5))


def test_erase_fills_the_box_and_nothing_else():
    images = planes(image_set("noise 24x40"))
    boxes = torch.tensor([[0, 0, 0, 0], [0, 0, 24, 40], [3, 5, 7, 11], [20, 38, 4, 2]], dtype=torch.int32)
    out = geometry.erase(images[:4], boxes, fill=torch.tensor(FILL, dtype=torch.uint8))
    for image, before, (top, left, tall, wide) in zip(out, images, boxes.tolist(), strict=False):
        expected = before.clone()
        expected[:, top : top + tall, left : left + wide] = torch.tensor(FILL, dtype=torch.uint8)[:, None, None]
        assert torch.equal(image, expected)
