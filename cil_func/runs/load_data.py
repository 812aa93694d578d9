"""Reads the images that a configuration names, once for all processes of a machine, and cuts them into phases."""

import hashlib
import math
from collections.abc import Callable
from contextlib import closing
from functools import partial

import numpy as np

from cil_func.config import Config, names
from cil_func.data import own, scenario, sources
from cil_func.data.reading import sharing
from cil_func.data.reading.decoding import OWN_MEMORY, ImageMemory
from cil_func.errors import DataError, Mistakes
from cil_func.methods.base import Method
from cil_func.parallel.processes import Processes
from cil_func.runs.method_of import method_of


def load(config: Config, method: Method, processes: Processes) -> tuple[sources.Dataset, str]:
    """Reads the data set of [data]. Returns (the data set, its fingerprint), the same on all processes.

    method: whose demands on the phases and the memory are checked. processes: those of the run, all of which call this.
    fingerprint: a SHA-256 in hexadecimal of all pixels, labels, class names and skipped files.
    Raises DataError with everything that is wrong; what the class names alone show is found before images are read.
    """
    data = _load_together(partial(_load, config, method), processes)
    found = _fingerprint(data)
    processes.check_equal({"the images": found}, when="after reading them")
    return data, found


def fingerprint_of(config: Config) -> str:
    """Reads the images of a configuration, in this process alone, and returns their fingerprint, as `load` does.

    Raises DataError as `load` does.
    """
    return _fingerprint(_load(config, method_of(config)))


def with_increments(config: Config, num_classes: int) -> Config:
    """Returns the configuration with data.increment = "auto" replaced by what it means for this number of classes.

    With "auto", data.initial_increment may change too, see `scenario.automatic`. A number or a list stays.
    """
    settings = config.data
    initial, increment = scenario.automatic(num_classes, settings.initial_increment, settings.increment)
    own = settings.model_copy(update={"initial_increment": initial, "increment": increment})
    return config.model_copy(update={"data": own})


def phases(config: Config, data: sources.Dataset) -> scenario.Scenario:
    """Returns the phases of a run: which classes come in each, and which rows of the images are theirs.

    config: its increments resolved by `with_increments`; they and data.class_order have to fit the classes of `data`.
    Raises DataError if they don't.
    """
    return scenario.build(
        data.train_targets,
        data.test_targets,
        _order(config, data.class_names),
        initial_increment=config.data.initial_increment,
        increment=config.data.increment,
    )


def _fingerprint(data: sources.Dataset) -> str:
    """Returns the SHA-256 of every pixel, the labels, the class names and the skipped files, as hexadecimal digits.

    Takes 0.2 s for the 150 MB of CIFAR-100.
    """
    found = hashlib.sha256(repr((data.class_names, data.skipped)).encode(errors="surrogateescape"))
    for images, targets in ((data.train_images, data.train_targets), (data.test_images, data.test_targets)):
        for part in (np.array(images.shape), targets, images):
            found.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _load_together(load: Callable[..., sources.Dataset], processes: Processes) -> sources.Dataset:
    """Returns the data set that load(memory=...) reads, decoded once on each machine: its processes map one copy.

    load: called with an `ImageMemory` into which it reads the images. Where the system can't share memory (no Linux),
    each process calls it, and the check of free memory counts all of them. A process that can't map another's memory
    calls it too.
    """
    count = processes.launch.local_size
    if count == 1 or not sharing.is_supported():
        with processes.first_of_machine_first("data"):
            data = load(memory=ImageMemory(copies=count))
        processes.wait_for_all("data")
        return data
    with closing(sharing.SharedArrays()) as shared:
        place = processes.once_per_machine("data", lambda: shared.publish(load(memory=ImageMemory(shared.empty))))
        try:
            data = sharing.attach(place)
        except OSError:
            with processes.activity.long_work("data", at_most_seconds=math.inf):
                data = load(memory=ImageMemory(copies=count - 1))  # beside the one that is there
        processes.wait_for_all("data")  # until which the first process has to offer it
    return data


def _load(config: Config, method: Method, memory: ImageMemory = OWN_MEMORY) -> sources.Dataset:
    """Reads the images that the configuration names into `memory`, in this process.

    Raises DataError with everything that is wrong; what the class names alone show is found before images are read.
    """
    settings = config.data
    if names.is_own(settings.name):
        return _own(config, method)
    return sources.load(
        settings.name,
        path=settings.path,
        image_size=settings.image_size,
        on_error=settings.on_error,
        exif_orientation=settings.exif_orientation,
        background=settings.background,
        check=lambda class_names: _check_classes(config, method, class_names),
        memory=memory,
    )


def _own(config: Config, method: Method) -> sources.Dataset:
    """Returns the data set that the user's own function returns, checked.

    The function is called with data.path and data.image_size, each if it has a parameter of that name. Raises DataError
    if what it returns doesn't fit, or if its images are not of the size that data.image_size asks for.
    """
    settings = config.data
    make = names.bind(
        settings.name, settings.options, key="data.name", built_in={}, given=("path", "image_size")
    )
    data = own.checked(make(path=settings.path, image_size=settings.image_size), name=settings.name)
    _check_classes(config, method, data.class_names)
    height, width = data.train_images.shape[1:3]
    if settings.image_size and (height, width) != (settings.image_size,) * 2:
        raise DataError(
            f"data.image_size: {settings.image_size}, and the images of {settings.name} are {width}x{height}; give "
            "them that size, or data.image_size = 0"
        )
    return data


def _check_classes(config: Config, method: Method, class_names: tuple[str, ...]) -> None:
    """Raises DataError, with all mistakes, for an order, increments or a memory that don't fit these classes.

    class_names: by class index.
    """
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


def _order(config: Config, class_names: tuple[str, ...]) -> list[int]:
    return scenario.class_order(
        config.data.class_order,
        num_classes=len(class_names),
        class_names=class_names,
        order_seed=config.data.order_seed,
    )


def _check_memory(config: Config, method: Method, num_classes: int) -> None:
    """Raises DataError for a memory.size that is above 0 and leaves a class without an exemplar; 0 may be meant."""
    settings = config.memory
    if method.uses_memory and not settings.fixed_per_class and 0 < settings.size < num_classes:
        raise DataError(
            f"memory.size: {settings.size} leaves no exemplar a class once {num_classes} classes are seen; "
            f"at least {num_classes}, or 0 to keep none"
        )
