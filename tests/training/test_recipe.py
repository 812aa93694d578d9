"""How a phase is trained: what the first phase and the later ones share."""

from functools import partial

import torch

from cil_func import methods, optim, tree
from cil_func.config import load
from cil_func.networks.network import Network
from cil_func.parallel.processes import ALONE
from cil_func.training import recipe
from cil_func.training.preprocess import Preprocess


def make(*overrides: str) -> tuple[recipe.Recipe, recipe.Recipe]:
    """(of the first phase, of the later ones) of WA on the digits."""
    config, stage = load("digits", overrides), methods.make("wa", methods.Options()).main
    preprocess = Preprocess(torch.full((3,), 0.5), torch.full((3,), 0.25))
    maker = recipe.RecipeMaker(Network("resnet20", 10, 5), preprocess, torch.float32, ALONE)
    numbers = [config.optim_of_phase(phase) for phase in (0, 1)]
    optimisers = [optim.sgd(momentum=each.momentum, weight_decay=each.weight_decay) for each in numbers]
    return tuple(map(partial(maker.make, stage), numbers, optimisers))


def test_phases_share_a_step_where_their_batches_have_one_shape():
    """A second step would be compiled for a minute."""
    first = ("weight_decay=0.01", "momentum=0.5", "learning_rate=0.3", "epochs=3", "warmup_epochs=1")
    early, late = make(*(f"optim.first_phase.{setting}" for setting in first))
    assert early.step is late.step
    early, late = make("optim.first_phase.batch_size=16")
    assert early.step is not late.step


def test_each_phase_trains_by_its_own_momentum_and_decay():
    """Two updates of one weight, by arithmetic: d = g + decay p; v = momentum v + d; p - rate v."""
    early, late = make("optim.first_phase.weight_decay=0.25", "optim.first_phase.momentum=0.5")
    for made, momentum, decay in ((early, 0.5, 0.25), (late, 0.9, 5e-4)):
        params, grads = {"w": torch.tensor([2.0])}, {"w": torch.tensor([1.0])}
        opt_state, rate = made.optimiser.init(params), torch.tensor(0.1)
        velocity = weight = None
        for _ in range(2):
            weight, velocity = params["w"].item(), velocity or 0.0
            velocity = momentum * velocity + 1.0 + decay * weight
            updates, opt_state = late.optimiser.update(grads, opt_state, params, rate)  # whoever's: the state decides
            params = tree.map(torch.add, params, updates)
            torch.testing.assert_close(params["w"], torch.tensor([weight - 0.1 * velocity]))
