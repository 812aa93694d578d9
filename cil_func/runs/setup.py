"""Builds everything that a run needs from its configuration, before anything is trained."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from cil_func import memory, optim
from cil_func.config import Config, names
from cil_func.config.schema import PhaseOptim
from cil_func.data import batches, images, streamed
from cil_func.data.augmentation import augment
from cil_func.errors import ConfigError
from cil_func.experiment import Experiment
from cil_func.methods.base import Method
from cil_func.networks.network import Network
from cil_func.parallel.launch import device_of, set_threads
from cil_func.parallel.processes import ALONE, Processes
from cil_func.runs import extended_data, fingerprints, load_data, loggers, machine, parent, pretrained, storage
from cil_func.runs.environment import resolve
from cil_func.runs.method_of import method_to_train
from cil_func.runs.network_of import backbone_for, check_backbone, check_maps, known_size, network_of
from cil_func.runs.old_tests import HeldOut
from cil_func.runs.parent import Parent
from cil_func.training import inference, runners
from cil_func.training.preprocess import DTYPES, Preprocess
from cil_func.training.recipe import Recipe, RecipeMaker


@dataclass(frozen=True)
class Setup:
    """A run, ready to start.

    config: each "auto" (device, precision, increments) replaced by what it means here. experiment: what is learned.
    skipped: the image files that couldn't be read, each with the reason. data_warnings: what a person should know about
    the images, one line each.
    fingerprint: a SHA-256 of all pixels, labels, class names and `skipped`; of two data sets with the same one, row i
    is the same image in both. tests_fingerprint: the same of the test images, their labels and the class names.
    stamp: a hash of the image files' names, classes, sizes and times, found without reading them: the same one means
    untouched files, another one may still mean the same images; "" for data without files.
    class_tests: the fingerprint of each class's own test images, by order of arrival; "" where it isn't known.
    train_files: see `sources.Dataset`.
    extended: the finished run that this one goes on from; None: it starts from nothing. held_out: {label: rows} of
    that run's exemplars that are not trained on, since old classes are tested on them. tested_on,
    why_held_out: in words, on which images old classes are tested, and what has become of the own ones of `held_out`.
    """

    config: Config
    experiment: Experiment
    skipped: tuple[str, ...]
    data_warnings: tuple[str, ...]
    fingerprint: str
    tests_fingerprint: str
    stamp: str
    class_tests: tuple[str, ...] = ()
    train_files: tuple[str, ...] = ()
    extended: Parent | None = None
    held_out: Mapping[int, torch.Tensor] = field(default_factory=dict)
    tested_on: str = ""
    why_held_out: str = ""

    @property
    def choice(self) -> HeldOut:
        """Which old classes are tested on exemplars, and why."""
        return HeldOut(tuple(sorted(self.held_out)), self.why_held_out)

    @property
    def first_phase(self) -> int:
        """The index of the first phase that this run trains: 0 unless it extends another run."""
        return len(self.extended.sizes) if self.extended else 0

    @property
    def processes(self) -> Processes:
        """The processes that share the run."""
        return self.experiment.processes


def build(config: Config, processes: Processes = ALONE, record: Mapping[str, Any] | None = None) -> Setup:
    """Resolves device and precision, loads the data, cuts it into phases and makes the network. Returns the run.

    processes: those that share the run, all of which call this; by default this process is alone.
    record: of the checkpoint that a run goes on from; None: it begins.
    Also sets torch's number of threads and its precision of float32 for the whole process. On a GPU it makes cuDNN take
    deterministic algorithms.
    Raises ConfigError for what the machine or a library can't do, DataError for what is wrong with the data.
    """
    config = pretrained.with_preparation(resolve(config, processes.launch))
    loggers.check(config)
    device = _prepare(config, processes)
    draws = check_backbone(config, known_size(config))  # what can be known before the data are loaded
    method = method_to_train(config)
    backbone_for(config, method)
    check_maps(config, method, known_size(config))
    optimisers = _optimisers(config, method)
    pretrained.refuse_missing_file(config)
    extended = parent.read(config)
    data, fingerprint = load_data.load(config, method, processes, extended, HeldOut.of_record(record))
    config = load_data.with_increments(config, len(data.class_names) - len(extended.class_names if extended else ()))
    config = storage.resolved(config, data)
    phases = load_data.phases(config, data, extended)
    workers = storage.num_workers(config, processes.launch)
    train_images, test_images = (
        streamed.images_of(pixels, workers=workers) for pixels in (data.train_images, data.test_images)
    )
    if known_size(config) is None:
        draws = check_backbone(config, train_images.shape, of_data=True)
        check_maps(config, method, train_images.shape)
    dtype, compute_dtype = DTYPES[config.run.precision]
    mean, std = config.data.mean, config.data.std
    if not mean:  # of the first phase alone: later images are not known yet
        with processes.activity.long_work("computing mean and std", at_most_seconds=math.inf):
            mean, std = batches.channel_statistics(train_images, phases.phases[0].train_rows)
    preprocess = Preprocess(*(torch.tensor(values, dtype=dtype, device=device) for values in (mean, std)))
    sizes = {"num_classes": len(phases.class_order), "num_phases": len(phases.phases)}
    network = network_of(config, method, **sizes, image_size=train_images.shape)
    network, method = pretrained.with_frozen(config, pretrained.with_weights(config, network), method)
    pretrained.refuse_unknown_factors(config, network)
    captured = device.type == "cuda" and config.run.compile
    maker = RecipeMaker(network, preprocess, compute_dtype, processes, compiled=config.run.compile, draws=draws)
    on_device = images.on_device(train_images, device)
    unseen = config.data.tests_on == "validation"  # the test images
    tested = on_device if unseen else images.on_device(test_images, device)
    experiment = Experiment(
        method=method,
        network=network,
        scenario=phases,
        class_names=data.class_names,
        train_images=on_device,
        test_images=tested,
        augment=augment.make(**config.augment.model_dump(), mean=tuple(mean)),
        preprocess=preprocess,
        recipe=_recipes(method, maker, optimisers),
        forward=_forward(config, network, preprocess, compute_dtype, processes, fill=captured),
        budget=memory.Budget(**config.memory.model_dump(exclude={"keep"})),
        seed=config.run.seed,
        captured=captured,
        draws=draws,
        processes=processes,
    )
    return Setup(
        config, experiment, data.skipped, data.warnings, fingerprint, fingerprints.of_tests(data), data.stamp,
        tuple(data.class_tests[index] for index in phases.class_order), data.train_files, extended,
        extended_data.held_rows(extended, data) if extended else {},
        extended_data.tested_on(extended, data) if extended else "", data.why_held_out,
    )  # fmt: skip


def _prepare(config: Config, processes: Processes) -> torch.device:
    """Sets this process's threads, device and float32. Returns the device. Raises ConfigError or MachineError."""
    set_threads(processes.launch, config.run.threads)
    if processes.size > 1:  # what each process computes by itself has other bits on another number of threads
        torch.set_num_threads(processes.least("threads", torch.get_num_threads()))
    device = device_of(processes.launch, config.run.device)
    processes.set_device(device)
    processes.refuse_shared_gpu()
    if config.run.compile:
        machine.check_compiler(device.type)
    runners.exact_float32()
    if device.type == "cuda":
        runners.same_bits()
    if processes.size > 1 and config.run.compile:
        runners.around_compilations(lambda: processes.activity.begin_work("compiling"), processes.activity.end_work)
    return device


class _Optimised(NamedTuple):
    """How a stage of a phase is optimised. table: of the configuration. kind: what tells its optimiser from others."""

    table: str
    numbers: PhaseOptim
    optimiser: optim.Optimiser
    kind: tuple


def _optimisers(config: Config, method: Method) -> dict[tuple[int, str], _Optimised]:
    """Returns {(phase, stage name): how it is optimised}; phase 1 stands for all later ones.

    Stage "" is the training that each phase begins with. Raises ConfigError for what doesn't fit or can't be found.
    """
    found = {}
    for phase, stage in [(1, method.main), (0, method.main), *((1, stage) for stage in method.stages)]:
        name = stage.name
        numbers = config.optim_of_stage(phase, name, stage.optim)
        table = f"optim.{name}" if name else "optim" if phase else "optim.first_phase"
        given = {"momentum": numbers.momentum, "weight_decay": numbers.weight_decay}
        make = names.bind(
            numbers.name, numbers.options, key=f"{table}.name", built_in=optim.TABLE, given=tuple(given)
        )
        own = given.values() if names.is_own(numbers.name) else ()
        kind = (numbers.name, numbers.options, numbers.rate_factors, *own)
        optimiser = make(**given)
        if not isinstance(optimiser, optim.Optimiser):
            raise ConfigError(f"{table}.name: {numbers.name} returned {type(optimiser).__name__}, no optim.Optimiser")
        optimiser = pretrained.with_factors(optimiser, numbers.rate_factors)
        found[phase, name] = _Optimised(table, numbers, optimiser, kind)
    return found


def _recipes(
    method: Method, maker: RecipeMaker, optimisers: Mapping[tuple[int, str], _Optimised]
) -> Callable[[int, str], Recipe]:
    """Returns the function (phase, stage name) -> recipe; phases after 1 get those of phase 1.

    All recipes are made now, so that one that doesn't fit is refused before training.
    """
    stages, made = {each.name: each for each in method.stages_of(1)}, {}
    for (phase, name), (table, numbers, optimiser, kind) in optimisers.items():
        recipe = maker.make(stages[name], numbers, optimiser, kind=kind, table=table)
        made[phase, name] = recipe if method.trains_in(phase) else replace(recipe, epochs=0)
    return lambda phase, name: made[min(phase, 1), name]


def _forward(
    config: Config,
    network: Network,
    preprocess: Preprocess,
    dtype: torch.dtype,
    processes: Processes,
    *,
    fill: bool,
) -> inference.Forward:
    """Returns the forward pass that evaluation and selection use, compiled if run.compile says so.

    dtype: in which the backbone computes. fill: see `inference.Forward`.
    """
    device = preprocess.mean.device
    function = inference.forward_of(network, preprocess, dtype=dtype)
    assert network.image_size, "a run's network is made for a size"
    batch_size = inference.batch_size(device, network.image_size)
    if config.run.compile:
        full = lambda *args: batch_size * (len(args[2]) == batch_size)  # noqa: E731
        function = runners.compiled(function, full=full, name="forward pass")
    if processes.size > 1:  # the others see that it works
        function = _ticking(function, processes)
    return inference.Forward(network, function, batch_size, device, processes, fill)


def _ticking(forward: inference.RunBackbone, processes: Processes) -> inference.RunBackbone:
    """Returns a function that does what `forward` does, each call of which counts as progress of this process.

    Otherwise the other processes would take this one for hanging during a long evaluation.
    """

    def call(*args):
        processes.activity.count_progress()
        return forward(*args)

    return call
