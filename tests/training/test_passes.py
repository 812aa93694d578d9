"""What a method measures on a phase's images: by image and by batch against loops over torch.nn's network."""

from dataclasses import replace

import pytest
import reference
import tiny
import torch
import torch.nn.functional as F

from cil_func import losses, tree
from cil_func.data.images import Resident
from cil_func.networks import auxiliary
from cil_func.networks.network import Model, Network
from cil_func.networks.outputs import classes_of
from cil_func.parallel.launch import Launch
from cil_func.parallel.processes import Processes
from cil_func.training import inference
from cil_func.training.passes import ModelPasses
from cil_func.training.preprocess import Preprocess

SEEN, WIDTH, ROWS = 4, 6, 37  # classes known, classes of the run, images; 37 is no multiple of a batch
CLASSES = classes_of([SEEN, WIDTH - SEEN], 0)


class Part(Processes):
    """One of several processes, which keeps its own part of a sum."""

    def __init__(self, rank: int, size: int):
        super().__init__(Launch(rank, size, rank, size))
        self.parts = []

    def sum(self, part):
        self.parts.append(part)
        return part


@pytest.fixture
def passes(monkeypatch):
    """Makes passes over 37 of 50 images, whose labels are in order, with a model whose statistics have moved."""
    tiny.shallow(monkeypatch)
    network = Network("resnet20", WIDTH, 2, image_size=(8, 8))
    params, state = tree.cast(tuple(network.init(3, SEEN)), dtype=torch.float64)
    generator = torch.Generator().manual_seed(4)
    state = tree.map(lambda leaf: leaf + torch.rand(leaf.shape, generator=generator, dtype=leaf.dtype), state)
    pixels = torch.randint(0, 256, (50, 8, 8, 3), generator=generator, dtype=torch.uint8)
    rows = torch.randperm(50, generator=generator)[:ROWS].sort().values
    labels = torch.arange(50) * SEEN // 50
    preprocess = Preprocess(*torch.tensor([[0.5, 0.4, 0.3], [0.2, 0.3, 0.4]], dtype=torch.float64))

    def make(batch_size=10, key=5, processes=None):
        model, images, processes = Model(network.pad(params), state), Resident(pixels), processes or Processes()
        return ModelPasses(network, model, CLASSES, images, labels, rows, preprocess, batch_size, key, processes)

    return make


def slopes(power: int, seen: list | None = None):
    """A measure: the gradient of the cross-entropy's mean over the images, to a power."""

    def measure(params, logits_of, labels):
        if seen is not None:
            seen.append(labels)
        loss = lambda params: losses.cross_entropy(logits_of(params), labels, mask=CLASSES.seen)  # noqa: E731
        return tree.map(lambda leaf: leaf**power, torch.func.grad(loss)(params))

    return measure


def looped(made: ModelPasses, groups: list, power: int) -> dict:
    """The mean over the images of what a group of them gives, by backward() on a torch.nn network in eval mode."""
    cut = made.network.cut(made.model.params, SEEN)
    network = reference.load(8, cut, made.model.state).eval()
    total = {name: torch.zeros_like(leaf) for name, leaf in network.named_parameters()}
    for group in groups:
        network.zero_grad()
        pixels = made.images.pixels[group].permute(0, 3, 1, 2).double() / 255
        mean, std = (values.view(1, 3, 1, 1) for values in made.preprocess)
        F.cross_entropy(network((pixels - mean) / std)[0], made.labels[group]).backward()
        for name, leaf in network.named_parameters():
            total[name] += leaf.grad**power * len(group) / ROWS
    return total


def assert_same(made: ModelPasses, ours: dict, theirs: dict) -> None:
    flat = reference.parameters(made.network.cut(ours, SEEN))
    assert flat.keys() == theirs.keys()
    for name, leaf in flat.items():
        torch.testing.assert_close(leaf, theirs[name], rtol=1e-9, atol=1e-12)
    assert not ours["classifier"]["weight"][SEEN:].any()


def test_by_image_is_a_loop_over_single_images(passes):
    made = passes()
    assert_same(made, made.mean(slopes(2), by="image"), looped(made, made.rows[:, None].tolist(), 2))


def test_by_batch_is_a_loop_over_batches_in_an_order_that_the_key_draws(passes):
    """The gradient of a batch, cubed: another one than that of its images. Each image comes once, labels are mixed."""
    made, groups = passes(), []
    gather = made.images.gather

    class Noted(Resident):
        def gather(self, rows):
            groups.append(rows.tolist())
            return gather(rows)

    object.__setattr__(made, "images", Noted(made.images.pixels))
    ours = made.mean(slopes(3), by="batch")
    assert [len(group) for group in groups] == [10, 10, 10, 7]
    assert sorted(row for group in groups for row in group) == made.rows.tolist()
    assert_same(made, ours, looped(made, groups, 3))
    orders = [tuple(map(tuple, groups))]
    for key in (5, 6):
        groups.clear()
        object.__setattr__(made, "key", key)
        made.mean(slopes(3), by="batch")
        orders.append(tuple(map(tuple, groups)))
    assert orders[0] == orders[1] != orders[2]
    labels = []
    passes().mean(slopes(1, seen=labels), by="batch")
    assert all(len(batch.unique()) > 1 for batch in labels)  # the rows themselves are sorted by class


def test_logits_of_a_network_that_grows_are_those_of_all_its_backbones(passes):
    """Two backbones with numbers of their own, by image and by batch, against the forward pass of evaluation."""
    made = passes()
    network = replace(made.network, grow="backbone", head=auxiliary.HEAD)
    first, other = (Model(*tree.cast(tuple(network.init(key, SEEN)), dtype=torch.float64)) for key in (3, 4))
    grown = network.expand(first, 5, WIDTH - SEEN, 1)
    model = Model(*({**part, "backbone": new["backbone"]} for part, new in zip(grown, other, strict=True)))
    made = replace(made, network=network, model=model, classes=classes_of([SEEN, WIDTH - SEEN], 1))
    forward = inference.Forward(
        network, inference.forward_of(network, made.preprocess, dtype=torch.float64), 64, torch.device("cpu")
    )
    features, _ = forward.outputs(model, made.images.gather(made.rows))
    expected = network.outputs(model.params, features, made.classes).logits.mean(0)
    for by in ("image", "batch"):
        found = made.mean(lambda params, logits_of, labels: {"mean": logits_of(params).mean(0)}, by=by)
        torch.testing.assert_close(found["mean"], expected)


@pytest.mark.parametrize(("by", "size", "idle"), [
    ("image", 2, 0), ("image", 3, 0), ("image", 7, 4), ("batch", 2, 0), ("batch", 3, 1), ("batch", 7, 3),
])  # fmt: skip
def test_several_processes_add_up_to_one(by, size, idle, passes):
    """They share 3 slices of 16 images, or 4 batches; a process that has none adds 0."""
    alone = passes().mean(slopes(2), by=by)
    parts = [Part(rank, size) for rank in range(size)]
    for part in parts:
        passes(processes=part).mean(slopes(2), by=by)
    sums = [part.parts[0] for part in parts]
    assert all(len(part.parts) == 1 for part in parts)
    together = tree.map(lambda *leaves: sum(leaves) / ROWS, *sums)
    tree.map(lambda a, b: torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12), together, alone)
    assert sum(not any(leaf.any() for leaf in tree.leaves(part)) for part in sums) == idle
