"""A network of one convolution with batch norm, small enough to be compiled in a test, and a step on it."""

from dataclasses import replace

import torch

from cil_func import methods, optim, tree
from cil_func.data.batches import Batch
from cil_func.networks import layers
from cil_func.networks.backbones import Backbone
from cil_func.networks.network import Network
from cil_func.networks.outputs import Classes, classes_of
from cil_func.training import step, step_state
from cil_func.training.preprocess import Preprocess

SIZES, WIDTH = [2, 2, 2], 4  # classes of each phase; features
DTYPE = torch.float64
RATE = torch.tensor(0.1, dtype=DTYPE)
PREPROCESS = Preprocess(*torch.tensor([[0.5, 0.4, 0.3], [0.2, 0.3, 0.4]], dtype=DTYPE))
OPTIMISER = optim.sgd(momentum=0.9, weight_decay=5e-3)


def _init(key, *, image_size=None):
    params, state = layers.norm_init(WIDTH)
    return {"conv": layers.conv_init(key, 3, WIDTH, 3), "norm": params}, {"norm": state}


def _apply(params, state, images, *, taps=None, final_relu=True, **mode):
    found, moved = layers.conv_norm(params["conv"], params["norm"], state["norm"], images, **mode)
    return found.relu().mean((2, 3)), taps([found]) if taps else {}, {"norm": moved}


BACKBONE = Backbone(_init, _apply, lambda: WIDTH, pads=lambda: True, groups=True, has_maps=True)
NAME = f"{__file__}:make"  # as model.backbone


def make() -> Backbone:
    return BACKBONE


NETWORK = Network("small", sum(SIZES), len(SIZES), backbone=BACKBONE)


def network_of(method: methods.Method) -> Network:
    return replace(
        NETWORK, head=method.head, taps=method.taps, grow=method.grow, beside=method.beside, begin=method.begin
    )


def begin(name: str, phase: int = 1, **options):
    """(method, classes, train state) of the start of a phase, after earlier ones that have trained nothing."""
    method = methods.make(name, methods.Options(), options)
    network = network_of(method)
    params, state = tree.cast(tuple(network.init(1, sum(SIZES[: phase + 1]))), dtype=DTYPE)
    params, classes, extra = network.pad(params), classes_of(SIZES, phase), {}
    if method.extra:
        extra = method.extra.begin(method.extra.start(params), params, classes)
    return method, classes, step_state.start(method.main, OPTIMISER, params, state, extra)


def parts(method, *, optimiser=OPTIMISER, norm_batch: int = 0, padded: bool = False) -> step.StepParts:
    return step.make(
        method.main, network_of(method), optimiser, PREPROCESS, dtype=DTYPE, norm_batch=norm_batch, padded=padded
    )  # fmt: skip


def draw(count: int, classes: Classes, seed: int = 5) -> Batch:
    """Images of the phase's new classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = classes.new.nonzero().flatten()
    pixels = torch.randint(0, 256, (count, 4, 4, 3), generator=generator, dtype=torch.uint8)
    return Batch(pixels, labels[torch.arange(count) % len(labels)])
