"""Sets of images: which pictures come back for row numbers, and where they are kept."""

import pytest
import torch

from cil_func.data.images import Mirrored, Resident, normalise, resident

# Two images of one row and three columns, each pixel of one value: 0 1 2 and 3 4 5.
PIXELS = torch.arange(6, dtype=torch.uint8).reshape(2, 1, 3, 1).expand(2, 1, 3, 3)


def values(images, *rows: int) -> list[list[int]]:
    """The pixels' values of each image that `gather` returns for the rows."""
    return images.gather(torch.tensor(rows, dtype=torch.int64))[:, 0, :, 0].tolist()


def test_rows_come_back_in_their_order():
    images = Resident(PIXELS)
    assert (len(images), images.shape, images.device.type, images.nbytes) == (2, (1, 3), "cpu", 18)
    assert values(images, 1, 0, 1) == [[3, 4, 5], [0, 1, 2], [3, 4, 5]]
    assert images.gather(torch.tensor([], dtype=torch.int64)).shape == (0, 1, 3, 3)


def test_normalised_images_by_hand():
    """0, 1 and 2 of 255 with mean 1/255 and deviations 1, 2 and 4 times that; the channels come first."""
    mean, std = torch.full((3,), 1 / 255, dtype=torch.float64), torch.tensor([1.0, 2.0, 4.0]).double() / 255
    found = normalise(PIXELS[:1], mean, std)
    assert found.shape == (1, 3, 1, 3) and found.dtype == torch.float64
    expected = torch.tensor([[-1.0, 0.0, 1.0], [-0.5, 0.0, 0.5], [-0.25, 0.0, 0.25]]).double()
    torch.testing.assert_close(found[0, :, 0], expected)
    assert normalise(PIXELS, mean, std, dtype=torch.float32).dtype == torch.float32
    with pytest.raises(ValueError, match=r"normalise: images are torch\.float32; give the pixels as uint8"):
        normalise(PIXELS.float(), mean, std)


def test_mirror_images_are_turned_from_left_to_right():
    images = Mirrored(Resident(PIXELS))
    assert (len(images), images.shape, images.device.type, images.nbytes) == (2, (1, 3), "cpu", 18)
    assert values(images, 1, 0) == [[5, 4, 3], [2, 1, 0]]


@pytest.mark.parametrize(("free", "moved"), [(4 * 50 * 72, True), (2 * 50 * 72 - 1, False)])
def test_images_live_on_the_gpu_where_half_of_its_free_memory_holds_them(free, moved, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10 * free))
    asked = []
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: asked.append(device) or self)
    resident(torch.zeros(50, 6, 4, 3, dtype=torch.uint8), torch.device("cuda"))
    assert asked == [torch.device("cuda")] * moved
