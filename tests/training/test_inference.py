"""Features of many images in batches are those of each image alone, in order."""

import pytest
import reference
import torch

from cil_func import model
from cil_func.training import inference, step


@pytest.mark.parametrize(("count", "calls"), [(0, []), (1, [4]), (4, [4]), (9, [4, 4, 4])])
def test_filled_up_each_call_has_the_compiled_size_and_the_features_stay(count, calls):
    params, state = model.init(0, "resnet20", 3)
    images = torch.randint(0, 256, (count, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    forward = inference.make(step.Preprocess(torch.full((3,), 0.5), torch.full((3,), 0.25)), dtype=torch.float32)
    sizes = []

    def counted(params, state, images):
        sizes.append(len(images))
        return forward(params, state, images)

    cpu = {"batch_size": 4, "device": torch.device("cpu")}
    filled = inference.features(counted, params, state, images, fill=True, **cpu)
    assert sizes == calls
    torch.testing.assert_close(filled, inference.features(forward, params, state, images, **cpu))


def test_order_of_rows_is_kept_and_batches_do_not_matter():
    params, state = model.init(0, "resnet20", 3)
    images = torch.randint(0, 256, (9, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    preprocess = step.Preprocess(torch.full((3,), 0.5), torch.full((3,), 0.25))
    forward = inference.make(preprocess, dtype=torch.float32)
    rows = torch.tensor([8, 0, 3, 3, 5])
    cpu = {"batch_size": 2, "device": torch.device("cpu")}
    found = inference.features(forward, params, state, images, rows, **cpu)
    assert torch.equal(inference.features(forward, params, state, images[rows], **cpu), found)
    taught = inference.teach(found, params)
    torch.testing.assert_close(taught.logits, found @ params["classifier"]["weight"].T + params["classifier"]["bias"])
    assert taught.features is found
    network = reference.load(20, params, state).eval()
    for feature, row in zip(found, rows, strict=True):
        pixels = (images[row].permute(2, 0, 1)[None] / 255 - 0.5) / 0.25
        torch.testing.assert_close(feature, network(pixels)[1][0].detach())
