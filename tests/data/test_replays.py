"""Exemplars beside each batch: what is drawn, whatever the chunk and however many processes share it."""

import pytest
import torch

from cil_func import tree
from cil_func.data import batches
from cil_func.data.augmentation import augment
from cil_func.data.batch import PADDING
from cil_func.data.images import Resident
from cil_func.data.replays import Pool, Replays, Share

PIXELS = torch.randint(0, 256, (40, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(40) // 4
LOGITS = torch.arange(7.0)[:, None] * torch.ones(3)
POOLS = (Pool(0, torch.arange(7), LOGITS), Pool(2, torch.arange(20, 24), LOGITS[:4] + 100))
CPU = torch.device("cpu")


def steps_of(share, *, first_step=0, changes=None, pools=POOLS):
    """(images, labels, group, stored) beside each batch of an epoch over the rows 24 to 39, four at a time."""
    chunks = batches.epoch_chunks(
        Resident(PIXELS), LABELS, torch.arange(24, 40), batch_size=4, key=3, augment=changes, device=CPU,
        first_step=first_step, replays=Replays(pools, share),
    )  # fmt: skip
    return [
        tree.map(lambda leaf, at=at: leaf[at], chunk.replayed)
        for chunk in chunks
        for at in range(chunk.done, len(chunk.sizes))
    ]


def rows_of(images):
    return [next(row for row in range(40) if torch.equal(PIXELS[row], image)) for image in images]


def test_groups_are_drawn_anew_for_each_step_without_repeating_an_image():
    found = steps_of(Share(5, filled=5))
    assert len(found) == 4 and all(step.group.tolist() == [0, 2] for step in found)
    for step in found:
        rows = rows_of(step.images[0])
        assert len(set(rows)) == 5 and max(rows) < 7
        assert step.labels[0].tolist() == [row // 4 for row in rows]
        assert torch.equal(step.stored[0], LOGITS[rows])
        real = step.labels[1] != PADDING  # the second pool has four
        assert real.tolist() == [True] * 4 + [False]
        assert sorted(rows_of(step.images[1][real])) == [20, 21, 22, 23]
        assert torch.equal(step.stored[1][real], LOGITS[[row - 20 for row in rows_of(step.images[1][real])]] + 100)
    assert len({tuple(rows_of(step.images[0])) for step in found}) == 4


def test_a_step_has_the_same_images_wherever_the_epoch_goes_on():
    changes = augment.make(backend="device", crop_padding=1, flip=True)
    whole, rest = (steps_of(Share(5, filled=5), changes=changes, first_step=first) for first in (0, 2))
    tree.map(lambda one, other: torch.testing.assert_close(one, other, rtol=0, atol=0), whole[2:], rest)
    assert not torch.equal(whole[0].images, steps_of(Share(5, filled=5))[0].images)  # they are augmented


def test_several_processes_share_what_one_process_draws():
    changes = augment.make(backend="device", crop_padding=1, flip=True)
    alone = steps_of(Share(6, filled=6), changes=changes)
    shares = [Share(6, slice(0, 4), 4), Share(6, slice(4, 6), 4), Share(6, slice(6, 6), 4)]
    parts = [steps_of(share, changes=changes) for share in shares]
    for step, whole in enumerate(alone):
        for group in (0, 1):
            for name in ("images", "labels", "stored"):
                joined = torch.cat([
                    getattr(part[step], name)[group][part[step].labels[group] != PADDING] for part in parts
                ])  # fmt: skip
                assert torch.equal(joined, getattr(whole, name)[group][whole.labels[group] != PADDING])


def test_a_backbone_without_padding_gets_groups_of_one_size():
    found = steps_of(Share(5))
    assert found[0].labels.shape == (2, 4) and (found[0].labels != PADDING).all()


def test_what_goes_to_a_gpu_can_be_pinned(monkeypatch):
    """torch pins a tensor with its strides; an expanded one, as the groups of several steps are, can't be written."""
    from cil_func.data.augmentation import uploads

    def pin_memory(values):
        pinned = torch.empty_strided(values.shape, values.stride(), dtype=values.dtype)
        return pinned.copy_(values)

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    expanded = torch.arange(3).expand(4, -1)
    with pytest.raises(RuntimeError, match="single memory location"):
        expanded.pin_memory()
    assert torch.equal(uploads.pin(expanded, torch.device("cuda")), expanded)
