"""How much memory the activations of a training step take, counted without computing one."""

import math

import torch

from cil_func import tree
from cil_func.parallel import batch_split
from cil_func.runs.setup import Setup
from cil_func.training.norm_groups import rows_of_part
from cil_func.training.preprocess import DTYPES


def rows(setup: Setup) -> int:
    """Returns how many rows of a batch this process computes at a time, the padding of its last norm group included."""
    recipe = setup.experiment.recipe(1, "")
    split = {"batch_size": recipe.batch_size, "norm_batch": recipe.norm_batch}
    own = batch_split.rows_per_process(setup.processes.size, **split)
    own = rows_of_part(own, setup.config.optim.accumulate, unit=recipe.norm_batch or recipe.stage.views)
    groups = recipe.norm_batch or own
    return math.ceil(own / groups) * groups


def activation_bytes(setup: Setup) -> int:
    """Returns how many bytes the backward pass of a batch keeps on this process, if the step runs eagerly.

    Counts them on the meta device, where nothing is computed. With run.recompute, those of one block at a time come on
    top.
    """
    experiment, (dtype, compute_dtype) = setup.experiment, DTYPES[setup.config.run.precision]
    network = experiment.network
    # timm's models run by autocast, which the meta device lacks: there their parameters have the low precision
    dtype = dtype if network.backbone.groups else compute_dtype
    sizes = experiment.sizes(experiment.scenario.phases[-1])
    params, state = tree.cast(tuple(network.drawn(0, sizes)), dtype=dtype, device="meta")
    norm_batch = setup.config.optim.norm_batch
    shape = (rows(setup), 3, *experiment.train_images.shape)
    images = torch.empty(shape, dtype=compute_dtype, device="meta")
    held: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held[id(tensor.untyped_storage())] = tensor
        return tensor

    trained, frozen = tree.partition(params, experiment.method.main.trains)
    for leaf in tree.leaves(trained):
        leaf.requires_grad_()
    params = tree.merge(trained, frozen)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features, aux, _ = network.run(params["backbone"], state, images, train=True, norm_batch=norm_batch)
        classes = experiment.classes(experiment.scenario.phases[0], "meta")
        network.outputs(params, network.place(features, 0), classes, aux)
    own = {id(leaf.untyped_storage()) for leaf in tree.leaves((params, state))}
    return sum(tensor.untyped_storage().nbytes() for place, tensor in held.items() if place not in own)
