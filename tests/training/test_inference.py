"""Features of many images in batches are those of each image alone, in order."""

import pytest
import reference
import torch

from cil_func import model, tree
from cil_func.data.images import Resident
from cil_func.errors import NonFiniteError
from cil_func.networks.network import Model, Network
from cil_func.networks.outputs import classes_of
from cil_func.training import inference
from cil_func.training.preprocess import Preprocess

NETWORK = Network("resnet20", 5, 2, image_size=(8, 8))
PREPROCESS = Preprocess(torch.full((3,), 0.5), torch.full((3,), 0.25))
FUNCTION = inference.forward_of(NETWORK, PREPROCESS, dtype=torch.float32)
CPU = torch.device("cpu")


def draw_images(count: int) -> Resident:
    generator = torch.Generator().manual_seed(0)
    return Resident(torch.randint(0, 256, (count, 8, 8, 3), dtype=torch.uint8, generator=generator))


@pytest.mark.parametrize(("count", "calls"), [(0, [1]), (1, [4]), (4, [4]), (9, [4, 4, 4])])
def test_filled_up_each_call_has_the_compiled_size_and_the_features_stay(count, calls):
    learned, pixels, sizes = Model(*model.init(0, "resnet20", 3)), draw_images(count).pixels, []

    def counted(params, state, images):
        sizes.append(len(images))
        return FUNCTION(params, state, images)

    filled, _ = inference.Forward(NETWORK, counted, 4, CPU, fill=True).outputs(learned, pixels)
    assert sizes == calls and filled.shape == (count, 64)
    torch.testing.assert_close(filled, inference.Forward(NETWORK, FUNCTION, 4, CPU).outputs(learned, pixels)[0])


def test_order_of_rows_is_kept_and_batches_do_not_matter():
    learned, images, rows = Model(*model.init(0, "resnet20", 3)), draw_images(9), torch.tensor([8, 0, 3, 3, 5])
    forward = inference.Forward(NETWORK, FUNCTION, 2, CPU)
    found = forward.features(learned, images, rows, when="now")
    oracle = reference.load(20, *learned).eval()
    for feature, row in zip(found, rows, strict=True):
        pixels = (images.pixels[row].permute(2, 0, 1)[None] / 255 - 0.5) / 0.25
        torch.testing.assert_close(feature, oracle(pixels)[1][0].detach())


def test_the_teacher_is_the_model_at_full_width_and_without_one_there_are_zeros_of_its_shapes():
    learned, images = Model(*model.init(0, "resnet20", 3)), draw_images(7).pixels
    forward, classes = inference.Forward(NETWORK, FUNCTION, 4, CPU), classes_of([3, 2], 0)
    taught, zeros = (make(learned, classes)(images) for make in (forward.teacher, forward.no_teacher))
    head = learned.params["classifier"]
    torch.testing.assert_close(taught.logits[:, :3], taught.features @ head["weight"].T + head["bias"])
    assert not taught.logits[:, 3:].any() and taught.logits.shape == (7, 5)
    for left, right in zip(tree.leaves(zeros), tree.leaves(taught), strict=True):
        assert not left.any() and (left.shape, left.dtype) == (right.shape, right.dtype)


def test_features_that_are_not_finite_are_refused():
    learned = Model(*model.init(0, "resnet20", 3))
    learned.params["backbone"]["resnet20"]["stem"]["conv"]["weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="phase 3: the features are not finite"):
        forward = inference.Forward(NETWORK, FUNCTION, 4, CPU)
        forward.features(learned, draw_images(3), torch.arange(3), when="phase 3")
