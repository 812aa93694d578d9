"""The model that a stage trains, put together with what its step doesn't see."""

from cil_func.data.scenario import Phase
from cil_func.networks.network import Model, with_frozen
from cil_func.training.definition import Experiment
from cil_func.training.progress import Progress
from cil_func.training.step_state import TrainState


def whole(
    experiment: Experiment, phase: Phase, learned: Model | None, trained: TrainState | Model, number: int
) -> Model:
    """Returns the model that a stage trains, cut to the classes seen, with the frozen backbones it doesn't see.

    learned: the last phase's finished model, which has the earlier frozen backbones, and whose own one is frozen in
    this phase; None in phase 0. trained: its params and state, padded. number: of the stage in its phase, 0, 1, ...
    """
    network, each = experiment.network, experiment.method.stages_of(phase.index)[number]
    model = Model(network.cut(trained.params, sum(experiment.sizes(phase))), trained.state)
    return with_frozen(model, learned) if network.adds_backbone and learned and not each.compresses else model


def before_compression(experiment: Experiment, phase: Phase, progress: Progress) -> Model | None:
    """Returns the model that the phase's last stage has compressed; None if it is no such stage."""
    at, before = progress.stage.number, progress.stage.before
    if not (before and experiment.method.stages_of(phase.index)[at].compresses):
        return None
    return whole(experiment, phase, progress.learned, before, at - 1)
