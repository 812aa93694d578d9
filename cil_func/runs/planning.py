"""What a run will do, counted before it does it: images, steps, parameters, memory."""

import math

import torch

from cil_func import memory, model, tree
from cil_func.data import scenario
from cil_func.errors import DataError
from cil_func.parallel import batch_split
from cil_func.runs.setup import Setup
from cil_func.training.recipe import Trainer


def run_start(setup: Setup) -> dict:
    """The "run_start" event: what is run on what, and how many images each phase trains on, an epoch."""
    phases = setup.scenario.phases
    return {
        "event": "run_start",
        "method": setup.method.name,
        "data": setup.config.data.name,
        "backbone": setup.config.model.backbone,
        "device": setup.device.type,
        "precision": setup.config.run.precision,
        "num_classes": setup.num_classes,
        "phases": [len(phase.classes) for phase in phases],
        "epochs": [setup.trainer(phase).epochs for phase in phases],
        "train_images": train_images(setup),
    }


def check(setup: Setup) -> None:
    """Raises DataError where a phase has too few images for the backbone to be trained on them."""
    name = setup.config.model.backbone
    if model.backbone(name).pads():
        return
    for phase, count in enumerate(train_images(setup)):
        if count < 2:
            raise DataError(
                f"phase {phase} trains on a single image, and the batch norm of {name} takes two or more; add images, "
                "raise data.increment or memory.size, or choose another model.backbone"
            )


def train_images(setup: Setup) -> list[int]:
    """Images that each phase trains on, an epoch: new and kept, or all that were seen."""
    new = [len(phase.train_rows) for phase in setup.scenario.phases]
    if setup.method.rows == "all":
        return [sum(new[: index + 1]) for index in range(len(new))]
    return [count + exemplars(setup, index) for index, count in enumerate(new)]


def exemplars(setup: Setup, index: int) -> int:
    """How many exemplars phase `index` starts with."""
    if index == 0 or not setup.method.uses_memory:
        return 0
    seen = sum(len(phase.classes) for phase in setup.scenario.phases[:index])
    settings = setup.config.memory
    quota = memory.quota(seen, size=settings.size, fixed_per_class=settings.fixed_per_class)
    counts = torch.bincount(setup.scenario.train_labels, minlength=setup.num_classes)[:seen]  # (seen,)
    return int(counts.clamp(max=quota).sum())


def warnings(setup: Setup) -> list[str]:
    """What a person should know before the run although it can be run: one line each, with the way out."""
    sizes = [len(phase.classes) for phase in setup.scenario.phases]
    found, settings = [], setup.config.method
    if sizes[0] == 1:
        name = setup.class_names[setup.scenario.class_order[0]]
        taught = "; in phase 1 distillation from one class says nothing either" if setup.method.uses_teacher else ""
        found.append(
            f"phase 0 brings a single class, {name!r}: its loss is 0 whatever the weights are, so nothing is learned, "
            f"and its accuracy of 100 % counts in the averages{taught}; set data.initial_increment to 2 or more"
        )
    if setup.method.uses_teacher and (settings.kd_combination, settings.kd_weight) == ("convex", 1) and len(sizes) > 1:
        found.append(
            'method.kd_weight = 1 with kd_combination = "convex" leaves the cross-entropy no weight, so classes of '
            "later phases are never learned; set a weight below 1"
        )
    rates, name = setup.config.model, setup.config.model.backbone
    if not (rates.drop_rate or rates.drop_path_rate) and model.backbone(name).drops():
        found.append(
            f"{name} drops features or blocks by itself, and here it doesn't: model.drop_rate and model.drop_path_rate "
            "are 0; set them to train with dropout or stochastic depth"
        )
    number = scenario.misleading_index(setup.class_names)
    if number is not None and isinstance(setup.config.data.class_order, str):
        found.append(
            f"class folders named by numbers are counted in alphabetical order: index {number} is class "
            f"{setup.class_names[number]!r}; to choose the order, list the names in data.class_order"
        )
    return found


def describe(setup: Setup) -> str:
    """The plan as text, for `--dry-run`. Raises DataError as `check` does."""
    check(setup)
    start = run_start(setup)
    lines = [
        f"{start['method']} on {start['data']}, {start['num_classes']} classes, {start['backbone']}, "
        f"{start['device']}, {start['precision']}",
        *_shares(setup),
        "",
        f"{'phase':>5} {'new':>5} {'seen':>5} {'images':>8} {'old':>6} {'epochs':>6} {'steps':>8}  classes",
    ]
    seen = total = 0
    for phase, new, images, epochs in zip(
        setup.scenario.phases, start["phases"], start["train_images"], start["epochs"], strict=True
    ):
        seen += new
        steps = epochs * len(setup.trainer(phase).batches(images))
        total += steps
        kept = exemplars(setup, phase.index)
        names = scenario.listed(phase.classes, setup.class_names)
        lines.append(f"{phase.index:>5} {new:>5} {seen:>5} {images:>8} {kept:>6} {epochs:>6} {steps:>8}  {names}")
    trained = sum(images * epochs for images, epochs in zip(start["train_images"], start["epochs"], strict=True))
    notes = [f"warning: {message}" for message in warnings(setup)]
    return "\n".join([*lines, "", f"{total:,} steps over {trained:,} images", *_sizes(setup), *notes])


def _shares(setup: Setup) -> list[str]:
    """A line on what each of several processes computes; none for one process."""
    size, trainer = setup.processes.size, setup.trainers[1]
    if size == 1:
        return []
    places = range(trainer.batch_size)
    counts = [len(places[batch_split.slice_of_rank(rank, size, **_split(trainer))]) for rank in range(size)]
    return [f"{size} processes: {', '.join(map(str, counts))} of the {trainer.batch_size} images of a batch"]


def _split(trainer: Trainer) -> dict[str, int]:
    return {"batch_size": trainer.batch_size, "norm_batch": trainer.norm_batch}


def _sizes(setup: Setup) -> list[str]:
    """Lines on parameters and memory, in MB of 10^6 bytes."""
    params, state = model.init(0, setup.config.model.backbone, setup.num_classes, image_size=setup.image_size)
    weights = _bytes(params) * (2 if setup.dtype == torch.float64 else 1)
    copies = 4 if setup.method.uses_teacher else 3
    images = [setup.train_images, setup.test_images]
    return [
        f"parameters: {tree.size(params):,} (backbone {tree.size(params['backbone']):,}), "
        f"statistics: {tree.size(state):,}",
        f"memory: images {_mb(_bytes(images))}; parameters, gradients, momentum"
        f"{', teacher' if copies == 4 else ''} {_mb(copies * weights)}; "
        f"activations of a batch about {_mb(activation_bytes(setup))}",
    ]


def activation_bytes(setup: Setup) -> int:
    """Bytes that the backward pass of one batch keeps, of this process's part of it, run eagerly.

    They are counted on the meta device, without work.
    """
    net = model.backbone(setup.config.model.backbone)
    drawn = model.init(0, setup.config.model.backbone, setup.num_classes, image_size=setup.image_size)
    # timm's models run by autocast, which the meta device lacks: there their parameters have the low precision
    dtype = setup.dtype if net.groups else setup.compute_dtype
    params, state = tree.cast(drawn, dtype=dtype, device="meta")
    norm_batch, split = setup.config.optim.norm_batch, _split(setup.trainers[1])
    rows = batch_split.rows_per_process(setup.processes.size, **split)
    groups = split["norm_batch"] or split["batch_size"]
    count = math.ceil(rows / groups) * groups  # the step fills the last group up
    shape = (count, 3, *setup.image_size)
    images = torch.empty(shape, dtype=setup.compute_dtype, device="meta")
    held: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        held[id(tensor.untyped_storage())] = tensor
        return tensor

    for leaf in tree.leaves(params):
        leaf.requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.apply(params, state, images, train=True, norm_batch=norm_batch)
    own = {id(leaf.untyped_storage()) for leaf in tree.leaves((params, state))}
    return sum(tensor.untyped_storage().nbytes() for place, tensor in held.items() if place not in own)


def _bytes(tensors: tree.Tree) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in tree.leaves(tensors))


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
