"""What the chapters' own runs share: a network and settings so small that a whole run takes seconds on one core."""

from typing import Any, NamedTuple

import torch

from cil_func import classifier, config, experiment, rng
from cil_func.networks.backbones import Backbone
from cil_func.runs import setup
from cil_func.training.definition import Experiment
from cil_func.training.progress import Progress, SaveHook

SETTINGS = (
    "model.backbone=cil_func.tutorial.whole_runs:perceptron", "data.increment=[4,3,3]", "augment.crop_padding=0",
    "optim.epochs=10", "optim.learning_rate=0.05", "optim.batch_size=32", "run.precision=float64", "run.device=cpu",
    "run.threads=1",
)  # fmt: skip


class Learned(NamedTuple):
    """A run that has ended.

    made: what it learned from. ends: where it stood at the end of each phase. results: as in results.json. events: all.
    """

    made: Experiment
    ends: list[Progress]
    results: dict[str, Any]
    events: list[dict[str, Any]]


def perceptron(hidden: int = 64, features: int = 32) -> Backbone:
    """Returns a backbone of two linear layers, each followed by a ReLU: no convolution, no batch norm, no state.

    hidden, features: the widths of the first and of the second layer.
    """

    def init(key, *, image_size=None):
        pixels = 3 * image_size[0] * image_size[1]
        first = classifier.init(rng.fold_in(key, "first"), pixels, hidden)
        return {"first": first, "second": classifier.init(rng.fold_in(key, "second"), hidden, features)}, {}

    def apply(params, state, images, *, train, valid=None):
        x = torch.relu(classifier.apply(params["first"], images.flatten(1)))  # (B, hidden)
        return torch.relu(classifier.apply(params["second"], x)), {}, state  # (B, features)

    return Backbone(init=init, apply=apply, feature_dim=lambda: features, pads=lambda: True)


class _Ends(SaveHook[Progress]):
    """Keeps where a run stands at the end of each phase."""

    def __init__(self) -> None:
        self.ends: dict[int, Progress] = {}

    def at_border(self, make, boundary):
        if boundary and (progress := make()).training is None:
            self.ends[progress.phase - 1] = progress


def learn(*settings: str) -> Learned:
    """Runs a method on scikit-learn's digits: 4 classes, then 3, then 3, 10 epochs a phase.

    settings: "table.key=value", over SETTINGS and the preset "digits".
    """
    events: list[dict[str, Any]] = []
    made = setup.build(config.load("digits", [*SETTINGS, *settings])).experiment
    hook = _Ends()
    _, results = experiment.run(made, emit=events.append, save=lambda results: None, hook=hook)
    return Learned(made, [hook.ends[phase] for phase in sorted(hook.ends)], results, events)
