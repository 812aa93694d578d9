"""One step of a stage on images of 7 classes that come in phases of 3, 2 and 2, with padding and norm groups."""

from functools import cache

import tiny
import torch

from cil_func import methods, optim, tree
from cil_func.data.batches import Batch
from cil_func.networks.network import Model, Network
from cil_func.networks.outputs import classes_of
from cil_func.training import inference, step, step_state
from cil_func.training.preprocess import Preprocess

SIZES = [3, 2, 2]
RATE = 0.1
COUNTS = torch.tensor([4, 5, 6, 20, 30, 0, 0])  # images of each class that the stage trains on
OPTIONS = {
    "podnet": {"tuned_epochs": 1, "proxies": 3}, "balanced": {"tuned_epochs": 1}, "lucir": {"tuned_epochs": 1},
}  # fmt: skip
# (images, rows, norm_batch): half a group of padding, a whole one, two; a batch that is one group
PADDED = [(12, 16, 0), (12, 18, 0), (8, 12, 4), (6, 12, 4), (4, 12, 4), (2, 12, 6)]


@cache
def setting(name: str, phase: int, dtype: torch.dtype) -> tuple:
    """(method, network, student's params and state, teach, preprocess) of the start of a phase, 0 or 1."""
    made = methods.make(name, methods.Options(), OPTIONS.get(name))
    network = Network(
        "resnet20", sum(SIZES), len(SIZES), image_size=(8, 8), backbone=tiny.BACKBONE, head=made.head, taps=made.taps,
        final_relu=made.final_relu, grow=made.grow, beside=made.beside, begin=made.begin,
    )  # fmt: skip
    preprocess = Preprocess(*torch.tensor([[0.5, 0.4, 0.3], [0.2, 0.3, 0.4]], dtype=dtype))
    learned = Model(*tree.cast(tuple(network.init(1, SIZES[0])), dtype=dtype))
    function = inference.forward_of(network, preprocess, dtype=dtype)
    forward = inference.Forward(network, function, 64, torch.device("cpu"))
    student = learned if phase == 0 else network.expand(learned, 2, SIZES[1], 1)
    teach = (forward.teacher if phase else forward.no_teacher)(learned, classes_of(SIZES, 0))
    parts = ({key: part for key, part in tree_.items() if key != "frozen"} for tree_ in student)
    params, state = parts
    return made, network, network.pad(params), state, teach, preprocess


def draw(count: int, seed: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 8, 8, 3), generator=generator, dtype=torch.uint8)
    return Batch(pixels, torch.randint(0, SIZES[0], (count,), generator=generator) + torch.arange(count) % 2 * 2)


def take(name, stage, phase, batch, *, norm_batch=0, taught=None, dtype=torch.float64):
    """(train state, measures) after a step on the batch; taught: None for what the teacher says of its images."""
    made, network, params, state, teach, preprocess = setting(name, phase, dtype)
    (each,) = [each for each in made.stages_of(1) if each.name == stage]
    optimiser = optim.sgd(momentum=0.9, weight_decay=5e-4)
    padded = bool((batch.labels == step_state.PADDING).any())
    parts = step.make(each, network, optimiser, preprocess, dtype=dtype, norm_batch=norm_batch, padded=padded)
    begun, taught = step_state.start(each, optimiser, params, state), taught or teach(batch.images)
    classes = classes_of(SIZES, phase)._replace(counts=COUNTS, progress=torch.tensor(0.5, dtype=dtype))
    return step.join(parts)(begun, taught, batch, classes, torch.tensor(RATE, dtype=dtype))


def close(mine, theirs, **tolerance) -> None:
    tree.map(lambda a, b: torch.testing.assert_close(a, b, **tolerance), mine, theirs)


def check_padding(name: str, stage: str = "", cases: list = PADDED) -> None:
    """A step with padding, whatever its pixels and what the teacher says of them, is the step without."""
    for phase in (0, 1) if not stage else (1,):
        _, _, params, _, teach, _ = setting(name, phase, torch.float64)
        whole, junk = draw(12), draw(18, seed=6)
        if phase == 0:
            whole = whole._replace(labels=whole.labels % SIZES[0])
        for size, rows, norm_batch in cases:
            batch = Batch(whole.images[:size], whole.labels[:size])
            expected = take(name, stage, phase, batch, norm_batch=norm_batch)
            assert not torch.equal(tree.to_vector(expected[0].params), tree.to_vector(params))
            labels = torch.cat([batch.labels, torch.full((rows - size,), step_state.PADDING)])
            filled = Batch(torch.cat([batch.images, junk.images[: rows - size]]), labels)
            close(take(name, stage, phase, filled, norm_batch=norm_batch), expected)
            taught, black = step_state.pad(teach(batch.images), batch, rows - size)
            close(take(name, stage, phase, black, norm_batch=norm_batch, taught=taught), expected)


def check_groups(name: str) -> None:
    """A step of two norm groups is the mean of two steps of a group each, if momentum and limits play no part."""
    batch = draw(12)
    together, measures = take(name, "", 1, batch, norm_batch=6)
    halves = [take(name, "", 1, Batch(batch.images[part], batch.labels[part])) for part in (slice(6), slice(6, 12))]
    mean = tree.map(lambda a, b: (a + b) / 2, *(half[0][:3] for half in halves))
    close(together[:3], mean)
    close(measures[:2], tree.map(torch.add, *(half[1][:2] for half in halves)))


def check_padding_alone(name: str, stage: str = "", images: int = 5) -> None:
    """Groups of padding alone leave a step in float32 finite."""
    dtype = torch.float32
    batch = draw(images)
    _, _, _, _, teach, _ = setting(name, 1, dtype)
    taught, filled = step_state.pad(teach(batch.images), batch, 20 - images)  # groups of 4, 1, 0, 0 and 0
    found = take(name, stage, 1, filled, norm_batch=4, taught=taught, dtype=dtype)
    close(found, take(name, stage, 1, batch, norm_batch=4, dtype=dtype), rtol=1e-3, atol=1e-4)
