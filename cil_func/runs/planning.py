"""What a run will do, counted before it does it: images, steps, parameters, memory."""

import torch

from cil_func import tree
from cil_func.config import effects
from cil_func.data import scenario
from cil_func.errors import DataError
from cil_func.experiment import Experiment
from cil_func.methods.checks import begun
from cil_func.parallel import batch_split
from cil_func.runs import activations, counting, memory_files, pretrained, storage
from cil_func.runs.setup import Setup
from cil_func.training.recipe import Recipe


def run_start(setup: Setup) -> dict:
    """Returns the "run_start" event: the method, data, backbone, device; each phase's classes, epochs and images.

    A phase that the run doesn't train itself, since it extends another run, has 0 epochs.
    """
    experiment = setup.experiment
    phases = experiment.scenario.phases
    return {
        "event": "run_start",
        "method": experiment.method.name,
        "data": setup.config.data.name,
        "backbone": setup.config.model.backbone,
        "device": experiment.device.type,
        "precision": setup.config.run.precision,
        "num_classes": experiment.num_classes,
        "phases": [len(phase.classes) for phase in phases],
        "epochs": [
            experiment.recipe(phase.index, "").epochs * (phase.index >= setup.first_phase) for phase in phases
        ],
        "train_images": counting.train_images(experiment),
    }


def check(setup: Setup) -> None:
    """Raises DataError if a phase would train on a single image and the backbone has batch norm, which needs two."""
    experiment = setup.experiment
    if experiment.network.backbone.pads() and not experiment.network.backbone.shares():
        return
    for phase, count in enumerate(counting.train_images(experiment)):
        if count < 2 and phase >= setup.first_phase:
            raise DataError(
                f"phase {phase} trains on a single image, and the batch norm of {experiment.network.name} takes two or "
                "more; add images, raise data.increment or memory.size, or choose another model.backbone"
            )


def warnings(setup: Setup) -> list[str]:
    """Returns what a person should know although the run can be trained: one line each, with what to do about it."""
    experiment, settings = setup.experiment, setup.config.method
    distils = settings.name in effects.WITH_KD
    sizes, found = [len(phase.classes) for phase in experiment.scenario.phases], []
    if sizes[0] == 1 and not setup.extended:
        name = experiment.class_names[experiment.scenario.class_order[0]]
        taught = "; in phase 1 distillation from one class says nothing either" if distils else ""
        found.append(
            f"phase 0 brings a single class, {name!r}: its loss is 0 whatever the weights are, so nothing is learned, "
            f"and its accuracy of 100 % counts in the averages{taught}; set data.initial_increment to 2 or more"
        )
    if distils and (settings.kd_combination, settings.kd_weight) == ("convex", 1) and len(sizes) > 1:
        found.append(
            'method.kd_weight = 1 with kd_combination = "convex" leaves the cross-entropy no weight, so classes of '
            "later phases are never learned; set a weight below 1"
        )
    rates, name = setup.config.model, setup.config.model.backbone
    if not (rates.drop_rate or rates.drop_path_rate) and experiment.network.backbone.drops():
        found.append(
            f"{name} drops features or blocks by itself, and here it doesn't: model.drop_rate and model.drop_path_rate "
            "are 0; set them to train with dropout or stochastic depth"
        )
    found += pretrained.warnings(setup.config)
    if experiment.method.trained == "never" and not (setup.config.model.weights or setup.extended):
        found.append(
            f"{settings.name} trains nothing, and the backbone's weights are random; name a file in model.weights, or "
            "set method.options.first_phase = true"
        )
    used = [stage.name for stage in experiment.method.stages]
    if unused := effects.unused_stages(setup.config, used):
        found.append(unused)
    for stage in experiment.method.stages:
        trained = range(max(1, setup.first_phase), len(sizes))
        empty = [index for index in trained if not counting.stage_images(experiment, stage, index)]
        if empty:
            found.append(
                f"stage {stage.name!r} of {experiment.method.name} has no images in phase {empty[0]}, and is left out "
                "there; raise memory.size"
            )
    number = scenario.misleading_index(experiment.class_names)
    if number is not None and isinstance(setup.config.data.class_order, str) and not setup.extended:
        found.append(
            f"class folders named by numbers are counted in alphabetical order: index {number} is class "
            f"{experiment.class_names[number]!r}; to choose the order, list the names in data.class_order"
        )
    return found


def describe(setup: Setup) -> str:
    """Returns the plan of a run as text, for `--dry-run`. Raises DataError as `check` does."""
    experiment = setup.experiment
    check(setup)
    start = run_start(setup)
    grows = f" {'parameters':>11}" if experiment.network.grow != "rows" else ""
    lines = [
        f"{start['method']} on {start['data']}, {start['num_classes']} classes, {start['backbone']}, "
        f"{start['device']}, {start['precision']}",
        *([f"goes on from {setup.extended.directory} after phase {setup.first_phase - 1}"] if setup.extended else []),
        *_shares(experiment),
        *_pretrained(setup),
        *_validation(setup),
        "",
        f"{'phase':>5} {'new':>5} {'seen':>5} {'images':>8} {'old':>6} {'epochs':>6} {'steps':>8}{grows}  classes",
    ]
    steps = images = 0
    for phase in experiment.scenario.phases[setup.first_phase :]:
        for stage in experiment.method.stages_of(phase.index):
            count = counting.stage_images(experiment, stage, phase.index)
            recipe = experiment.recipe(phase.index, stage.name)
            own = recipe.epochs * len(recipe.batches(count))
            steps, images = steps + own, images + recipe.epochs * count
            if stage.name:
                lines.append(f"{'':>17} {count:>8} {'':>6} {recipe.epochs:>6} {own:>8}  stage {stage.name!r}")
                continue
            seen, kept = sum(experiment.sizes(phase)), sum(counting.exemplars(experiment, phase.index))
            size = f" {_parameters(experiment, phase.index):>11,}" if grows else ""
            names = scenario.listed(phase.classes, experiment.class_names)
            lines.append(
                f"{phase.index:>5} {len(phase.classes):>5} {seen:>5} {count:>8} {kept:>6} {recipe.epochs:>6} {own:>8}"
                f"{size}  {names}"
            )
    notes = [f"warning: {message}" for message in warnings(setup)]
    return "\n".join([*lines, "", f"{steps:,} steps over {images:,} images", *_sizes(setup), *notes])


def _validation(setup: Setup) -> list[str]:
    """Returns a line on how many training images of each phase are kept for validation; [] if none are."""
    counts = [len(phase.validation_rows) for phase in setup.experiment.scenario.phases]
    if not any(counts):
        return []
    each = f"{counts[0]} a phase" if len(set(counts)) == 1 else f"{', '.join(map(str, counts))} by phase"
    unseen = "; the test images are unseen" if setup.config.data.tests_on == "validation" else ""
    return [f"{sum(counts):,} training images are kept for validation, {each}{unseen}"]


def _shares(experiment: Experiment) -> list[str]:
    """Returns a line on how many images of a batch each of several processes computes; [] for one process."""
    size, recipe = experiment.processes.size, experiment.recipe(1, "")
    if size == 1:
        return []
    places = range(recipe.batch_size)
    counts = [len(places[batch_split.slice_of_rank(rank, size, **_split(recipe))]) for rank in range(size)]
    return [f"{size} processes: {', '.join(map(str, counts))} of the {recipe.batch_size} images of a batch"]


def _pretrained(setup: Setup) -> list[str]:
    """Returns lines on the weights that the backbone begins with, and on what of it is frozen; [] without either."""
    data, model, lines = setup.config.data, setup.config.model, []
    if model.weights and not setup.extended:
        height, width = setup.experiment.train_images.shape
        numbers = [[round(value, 3) for value in values] for values in (data.mean, data.std)]
        normalised = f", mean {numbers[0]}, std {numbers[1]}" if data.mean else ""
        lines.append(f"the backbone begins with {model.weights}: images of {width}x{height} pixels{normalised}")
    if model.freeze:
        params = setup.experiment.network.init(0, 1).params
        of_backbone = {"backbone": params["backbone"]}
        trained, _ = tree.partition(of_backbone, lambda path: not setup.experiment.method.frozen(path))
        count, whole = tree.size(of_backbone) - tree.size(trained), tree.size(of_backbone)
        lines.append(f"frozen: {count:,} of the backbone's {whole:,} parameters")
    return lines


def _split(recipe: Recipe) -> dict[str, int]:
    return {"batch_size": recipe.batch_size, "norm_batch": recipe.norm_batch}


def _parameters(experiment: Experiment, index: int) -> int:
    """Returns the number of parameters of the model after phase `index`, all backbones included."""
    return tree.size(experiment.network.drawn(0, experiment.sizes(experiment.scenario.phases[index])).params)


def _sizes(setup: Setup) -> list[str]:
    """Returns the plan's lines on parameters, memory in MB of 10^6 bytes, and graphs to compile."""
    experiment = setup.experiment
    params, state = experiment.network.init(0, experiment.num_classes)
    number = 8 if experiment.dtype == torch.float64 else 4
    last = _parameters(experiment, len(experiment.scenario.phases) - 1)
    trained, _ = tree.partition(params, experiment.method.main.trains)
    held = {"parameters": last, "gradients": tree.size(trained), "momentum": tree.size(trained)}
    if experiment.method.uses_teacher:
        held["teacher"] = tree.size(params)
    if (extra := experiment.method.extra) is not None:
        remembered = begun(extra, {}, params, experiment.classes(experiment.scenario.phases[0]))
        held["what the method remembers"] = tree.size(remembered)
    images = experiment.train_images.nbytes + experiment.test_images.nbytes
    lines = [
        *_streaming(setup),
        f"parameters: {last:,} (backbone {tree.size(params['backbone']):,}), statistics: {tree.size(state):,}",
        f"memory: images {_mb(images)}; {', '.join(held)} {_mb(number * sum(held.values()))}; "
        f"activations about {_mb(activations.activation_bytes(setup))} for {activations.rows(setup)} images a device",
    ]
    if experiment.method.uses_memory:
        kept = counting.exemplars(experiment, len(experiment.scenario.phases))
        size = memory_files.size_of(kept, experiment.train_images.shape)
        lines.append(f"exemplars: {size['images']:,} at the end, {_mb(size['bytes'])}, {max(kept, default=0)} a class")
    if setup.config.run.compile:
        stages = len(experiment.method.stages_of(len(experiment.scenario.phases) - 1))
        count = 1 + experiment.network.beside + stages * (2 if experiment.processes.size > 1 else 1)
        if experiment.method.replay:
            count += 1 if experiment.processes.size > 1 else 2  # the step is three functions
        times, by = 1, "whatever the number of phases"
        if experiment.network.grow == "stage":  # the step of each phase has another shape
            times, by = len(experiment.scenario.phases), "as many in each phase"
        lines.append(f"graphs to compile: {count * times}, {by}")
    return lines


def _streaming(setup: Setup) -> list[str]:
    """Returns a line about images that stay in their files, or are in a packed one; [] if there are none."""
    made = setup.experiment
    storage_is = setup.config.data.storage
    if storage_is not in ("streaming", "packed"):
        return []
    height, width = made.train_images.shape
    count = len(made.train_images) + len(made.test_images)
    size = _mb(count * height * width * 3)
    if storage_is == "packed":
        return [f"images: {count:,} in a packed file (data.storage), {size}, mapped into memory"]
    workers = storage.num_workers(setup.config, made.processes.launch)
    by = f"{workers} processes of its own" if workers != 1 else "a process of its own"
    by = f"{by} for each process of the run" if workers else "a thread"
    return [f"images: {count:,} stay in their files (data.storage), {size} as pixels; decoded by {by}"]


def _mb(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
