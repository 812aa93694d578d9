"""Everything that a run needs, built from its configuration before anything is trained."""

import hashlib
import math
import platform
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version

import numpy as np
import torch

from cil_func import methods, model
from cil_func.config import Config
from cil_func.data import batches, scenario, sources
from cil_func.data.augmentation import augment
from cil_func.data.reading import sharing
from cil_func.data.reading.decoding import OWN, Room
from cil_func.errors import ConfigError, DataError, Mistakes
from cil_func.parallel.launch import device_of, set_threads
from cil_func.parallel.processes import ALONE, Processes
from cil_func.runs import machine
from cil_func.training import inference, recipe, runners, step
from cil_func.training.recipe import Trainer


@dataclass(frozen=True)
class Setup:
    """A run, ready to start. Images are uint8 (N, H, W, 3); labels count in order of arrival."""

    config: Config
    scenario: scenario.Scenario
    class_names: tuple[str, ...]
    skipped: tuple[str, ...]  # image files that couldn't be read, and why
    data_warnings: tuple[str, ...]  # what a person should know of the images, one line each
    fingerprint: str  # of the data: rows mean the same images where it is the same
    stamp: str  # of the image files, see `sources.Dataset`
    train_images: torch.Tensor
    test_images: torch.Tensor
    method: methods.Method
    augment: augment.Augment
    preprocess: step.Preprocess
    device: torch.device
    dtype: torch.dtype
    compute_dtype: torch.dtype
    forward: Callable
    forward_batch: int  # images
    trainers: tuple[Trainer, Trainer]  # of the first phase, of the later ones
    draws: bool  # whether the backbone draws random numbers in a step
    processes: Processes  # the processes that share the run

    @property
    def captures(self) -> bool:
        """Whether a step is captured as a CUDA graph."""
        return self.device.type == "cuda" and self.config.run.compile

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of every image."""
        return tuple(self.train_images.shape[1:3])

    @property
    def num_classes(self) -> int:
        return len(self.scenario.class_order)

    def sizes(self, phase: scenario.Phase) -> list[int]:
        """num_new of each phase up to this one."""
        return [len(earlier.classes) for earlier in self.scenario.phases[: phase.index + 1]]

    def classes(self, phase: scenario.Phase) -> methods.Classes:
        """Which of the run's classes are known in a phase, as masks on the device."""
        seen = sum(self.sizes(phase))
        labels = torch.arange(self.num_classes, device=self.device)
        return methods.Classes(seen=labels < seen, old=labels < seen - len(phase.classes))

    def trainer(self, phase: scenario.Phase) -> Trainer:
        """How a phase is trained."""
        return self.trainers[min(phase.index, 1)]


def build(config: Config, processes: Processes = ALONE) -> Setup:
    """Resolves device and precision, loads the data and cuts it into phases.

    Raises ConfigError for what the machine or a library can't do, DataError for what is wrong with the data.
    """
    config = resolve(config)
    set_threads(processes.launch, config.run.threads)
    device = device_of(processes.launch, config.run.device)
    processes.set_device(device)
    processes.refuse_shared_gpu()
    if config.run.compile:
        machine.check_compiler(device.type)
    runners.exact_float32()
    if device.type == "cuda":
        runners.same_bits()
    dtype, compute_dtype = step.DTYPES[config.run.precision]
    draws = _check_backbone(config, _known_size(config))  # what can be known before the data are loaded
    method = methods.make(config.method.name, _options(config))
    data = _load_together(partial(_load, config, method), processes)
    fingerprint = _fingerprint(data)
    processes.check_equal({"the images": fingerprint}, when="after reading them")
    config = _with_increments(config, len(data.class_names))
    phases = _phases(config, data)
    train_images = torch.from_numpy(data.train_images)
    if _known_size(config) is None:
        draws = _check_backbone(config, tuple(train_images.shape[1:3]), of_data=True)
    mean, std = config.data.mean, config.data.std
    if not mean:  # of the first phase alone: later images are not known yet
        mean, std = batches.channel_statistics(train_images, phases.phases[0].train_rows)
    preprocess = step.Preprocess(*(torch.tensor(values, dtype=dtype, device=device) for values in (mean, std)))
    forward = inference.make(preprocess, dtype=compute_dtype)
    forward_batch = inference.batch_size(device, train_images)
    if config.run.compile:
        full = lambda *args: forward_batch * (len(args[2]) == forward_batch)  # noqa: E731
        forward = runners.compiled(forward, full=full, name="forward pass")
    if processes.size > 1:  # the others see that it works
        forward = _ticking(forward, processes)
    if processes.size > 1 and config.run.compile:
        runners.around_compilations(lambda: processes.activity.begin_work("compiling"), processes.activity.end_work)
    return Setup(
        config=config,
        scenario=phases,
        skipped=data.skipped,
        data_warnings=data.warnings,
        fingerprint=fingerprint,
        stamp=data.stamp,
        class_names=data.class_names,
        train_images=batches.place(train_images, device),
        test_images=batches.place(torch.from_numpy(data.test_images), device),
        method=method,
        augment=_augment(config, mean),
        preprocess=preprocess,
        device=device,
        dtype=dtype,
        compute_dtype=compute_dtype,
        forward=forward,
        forward_batch=forward_batch,
        trainers=recipe.make(config, method, preprocess, compute_dtype, processes, draws=draws),
        draws=draws,
        processes=processes,
    )


def resolve(config: Config) -> Config:
    """The configuration with "auto" replaced by what this machine has; ConfigError for what it lacks."""
    device, precision = config.run.device, config.run.precision
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError('run.device: "cuda", and torch finds no CUDA device here; "auto" or "cpu" fits')
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "auto":
        precision = "bfloat16" if _has_bfloat16(device) else "float32"
    return config.model_copy(
        update={"run": config.run.model_copy(update={"device": device, "precision": precision})}
    )


def _known_size(config: Config) -> tuple[int, int] | None:
    """(H, W) of the images as the configuration alone shows it, None where the data will."""
    side = config.data.image_size or sources.OWN_SIZES.get(config.data.name)
    return None if side is None else (side, side)


def _check_backbone(config: Config, image_size: tuple[int, int] | None, *, of_data: bool = False) -> bool:
    """Checks the backbone; returns whether it draws random numbers. image_size: None checks its name alone.

    Raises ConfigError for an unknown model, a rate that it doesn't have, or images of a size that it can't take; for
    the last one DataError if the size is that of the data.
    """
    name, drop = config.model.backbone, recipe.drop_of(config)
    net = model.backbone(name)
    if image_size is None:
        net.feature_dim()
        return False
    try:
        return net.draws(image_size, drop)
    except ValueError as error:
        height, width = image_size
        fits = next((side for side in (_near(height), 32, 64, 224, 256) if _takes(net, side)), None)
        raise (DataError if of_data else ConfigError)(
            f"data.image_size: {config.data.image_size}, and {name} can't take images of {height}x{width} pixels "
            f"({error}); " + (f"data.image_size = {fits} fits" if fits else "choose another model.backbone")
        ) from error


def _near(side: int) -> int:
    """The multiple of 32 next to a side: what most networks divide by."""
    return max(32, 32 * round(side / 32))


def _takes(net: model.Backbone, side: int) -> bool:
    try:
        net.draws((side, side))
    except ValueError:
        return False
    return True


def _has_bfloat16(device: str) -> bool:
    """The fixed table of `precision = "auto"`: GPUs from compute capability 8.0, CPUs with AVX512-BF16 or AMX."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def environment(setup: Setup) -> dict:
    """What the results depend on besides the configuration: versions, device, precision, threads."""
    cuda = setup.device.type == "cuda"
    packages = ("torch", "torchvision", "timm", "continuum", "numpy", "pillow")
    return {
        **{package: version(package) for package in packages},
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if cuda else f"cpu ({platform.machine()})",
        "threads": torch.get_num_threads(),
        "world_size": setup.processes.size,
        "precision": setup.config.run.precision,
        **runners.float32_precision(setup.device.type),
    }


def _fingerprint(data: sources.Dataset) -> str:
    """SHA-256 of every pixel, the labels and the class names: 0.2 s for the 150 MB of CIFAR-100."""
    found = hashlib.sha256(repr((data.class_names, data.skipped)).encode(errors="surrogateescape"))
    for images, targets in ((data.train_images, data.train_targets), (data.test_images, data.test_targets)):
        for part in (np.array(images.shape), targets, images):
            found.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
    return found.hexdigest()


def fingerprint_of(config: Config) -> str:
    """Reads the images of a configuration and returns their fingerprint. Raises DataError."""
    return _fingerprint(_load(config, methods.make(config.method.name, _options(config))))


def _load_together(load: Callable[..., sources.Dataset], processes: Processes) -> sources.Dataset:
    """The data set that load(room=...) reads, decoded once on each machine: its processes map one copy.

    Where the system can't share (no Linux), each reads its own, and the check of memory counts them all. So does a
    process that can't map another's memory.
    """
    count = processes.launch.local_size
    if count == 1 or not sharing.possible():
        with processes.first_of_machine_first("data"):
            data = load(room=Room(copies=count))
        processes.wait_for_all("data")
        return data
    with closing(sharing.Arena()) as arena:
        place = processes.once_per_machine("data", lambda: arena.publish(load(room=Room(arena.empty))))
        try:
            data = sharing.attach(place)
        except OSError:
            with processes.activity.long_work("data", at_most_seconds=math.inf):
                data = load(room=Room(copies=count - 1))  # beside the one that is there
        processes.wait_for_all("data")  # until which the first process has to offer it
    return data


def _load(config: Config, method: methods.Method, room: Room = OWN) -> sources.Dataset:
    """Reads the images that the configuration names into `room`.

    Raises DataError with everything that is wrong; what the class names alone show is found before images are read.
    """
    settings = config.data
    return sources.load(
        settings.name,
        path=settings.path,
        image_size=settings.image_size,
        on_error=settings.on_error,
        exif_orientation=settings.exif_orientation,
        background=settings.background,
        check=lambda class_names: _check_classes(config, method, class_names),
        room=room,
    )


def _check_classes(config: Config, method: methods.Method, class_names: tuple[str, ...]) -> None:
    """Raises DataError for an order, increments and a memory that don't fit these classes."""
    mistakes = Mistakes()
    with mistakes.collected():
        _order(config, class_names)
    with mistakes.collected():
        sizes = scenario.increments(
            len(class_names), initial_increment=config.data.initial_increment, increment=config.data.increment
        )
        if fault := method.fault_of(sizes):
            raise DataError(fault)
    with mistakes.collected():
        _check_memory(config, method, len(class_names))
    mistakes.refuse()


def _with_increments(config: Config, num_classes: int) -> Config:
    """The configuration with data.increment = "auto" replaced by what it means for this number of classes."""
    settings = config.data
    initial, increment = scenario.automatic(num_classes, settings.initial_increment, settings.increment)
    own = settings.model_copy(update={"initial_increment": initial, "increment": increment})
    return config.model_copy(update={"data": own})


def _order(config: Config, class_names: tuple[str, ...]) -> list[int]:
    return scenario.class_order(
        config.data.class_order,
        num_classes=len(class_names),
        class_names=class_names,
        order_seed=config.data.order_seed,
    )


def _phases(config: Config, data: sources.Dataset) -> scenario.Scenario:
    return scenario.build(
        data.train_targets,
        data.test_targets,
        _order(config, data.class_names),
        initial_increment=config.data.initial_increment,
        increment=config.data.increment,
    )


def _options(config: Config) -> methods.Options:
    fields = config.method.model_dump()
    fields.pop("name")
    return methods.Options(**fields)


def _ticking(forward: Callable, processes: Processes) -> Callable:
    """The same function; each call counts as progress of this process."""

    def call(*args):
        processes.activity.count_progress()
        return forward(*args)

    return call


def _augment(config: Config, mean: list[float]) -> augment.Augment:
    return augment.make(**config.augment.model_dump(), mean=tuple(mean))


def _check_memory(config: Config, method: methods.Method, num_classes: int) -> None:
    """A budget that leaves a class without an exemplar is a mistake; 0 for all of them may be meant."""
    settings = config.memory
    if method.uses_memory and not settings.fixed_per_class and 0 < settings.size < num_classes:
        raise DataError(
            f"memory.size: {settings.size} leaves no exemplar a class once {num_classes} classes are seen; "
            f"at least {num_classes}, or 0 to keep none"
        )
