"""Reads the images that a configuration names, once for all processes of a machine, and cuts them into phases."""

import math
from collections.abc import Callable
from contextlib import closing
from functools import partial

from cil_func.config import Config, names
from cil_func.data import own, scenario, sources, validation
from cil_func.data.reading import sharing
from cil_func.data.reading.decoding import OWN_MEMORY, ImageMemory
from cil_func.errors import DataError, Mistakes
from cil_func.methods.base import Method
from cil_func.parallel.processes import Processes
from cil_func.runs import extended_data, fingerprints, old_tests, parent, storage
from cil_func.runs.method_of import method_of
from cil_func.runs.old_tests import HeldOut
from cil_func.runs.parent import Parent


def load(
    config: Config,
    method: Method,
    processes: Processes,
    extended: Parent | None = None,
    begun: HeldOut | None = None,
) -> tuple[sources.Dataset, str]:
    """Reads the data set of [data]. Returns (the data set, its fingerprint), the same on all processes.

    method: whose demands on the phases and the memory are checked. processes: those of the run, all of which call this.
    extended: the run that this one extends, whose classes and images are put in front. begun: see `old_tests.find`.
    fingerprint: a SHA-256 in hexadecimal of all pixels, labels, class names and skipped files.
    Raises DataError with everything that is wrong; what the class names alone show is found before images are read.
    """
    data = _load_together(partial(_load, config, method, extended, begun), processes)
    found = fingerprints.of_data(data)
    processes.check_equal({"the images": found}, when="after reading them")
    return data, found


def fingerprint_of(config: Config, begun: HeldOut | None = None) -> str:
    """Reads the images of a configuration, in this process alone, and returns their fingerprint, as `load` does.

    begun: of a run that extends another one and goes on, see `old_tests.find`. Raises DataError as `load` does.
    """
    return fingerprints.of_data(_load(config, method_of(config), parent.read(config), begun))


def images_of(config: Config) -> sources.Dataset:
    """Reads the images that [data] names, in this process alone; for a run that extends another one the new classes'.

    Raises DataError as `load` does.
    """
    return _load(config, method_of(config), None)


def with_increments(config: Config, num_classes: int) -> Config:
    """Returns the configuration with data.increment = "auto" replaced by what it means for this number of classes.

    With "auto", data.initial_increment may change too, see `scenario.automatic`. A number or a list stays. For a run
    that extends another one num_classes counts the new classes, and "auto" means one phase.
    """
    settings = config.data
    if config.run.extends and settings.increment == "auto":
        settings = settings.model_copy(update={"increment": num_classes})
    initial, increment = scenario.automatic(num_classes, settings.initial_increment, settings.increment)
    own = settings.model_copy(update={"initial_increment": initial, "increment": increment})
    return config.model_copy(update={"data": own})


def phases(config: Config, data: sources.Dataset, extended: Parent | None = None) -> scenario.Scenario:
    """Returns the phases of a run: which classes come in each, and which rows of the images are theirs.

    config: its increments resolved by `with_increments`; they and data.class_order have to fit the classes of `data`,
    the new ones if the run extends another one, `extended`, whose phases come first. Raises DataError if they don't.
    """
    known = len(extended.class_names) if extended else 0
    order = _order(config, data.class_names[known:])
    found = scenario.build(
        data.train_targets,
        data.test_targets,
        [*range(known), *(known + index for index in order)],
        initial_increment=0 if extended else config.data.initial_increment,
        increment=_sizes(config, len(order), extended) if extended else config.data.increment,
        known=known,
    )
    if extended:
        found = extended_data.without_held(found, extended_data.held_rows(extended, data))
    found = validation.keep_out(validation.first(found, config.data.phases), config.data.validation, data.class_names)
    return validation.as_tests(found) if config.data.tests_on == "validation" else found


def _sizes(config: Config, num_classes: int, extended: Parent | None) -> list[int]:
    """Returns how many classes each phase brings, those of the extended run first. num_classes: of the data set."""
    settings = with_increments(config, num_classes).data
    sizes = scenario.increments(
        num_classes, initial_increment=settings.initial_increment, increment=settings.increment
    )
    return [*(extended.sizes if extended else []), *sizes]


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


def _load(
    config: Config,
    method: Method,
    extended: Parent | None,
    begun: HeldOut | None = None,
    memory: ImageMemory = OWN_MEMORY,
) -> sources.Dataset:
    """Reads the images that the configuration names into `memory`, in this process.

    extended: the run that this one extends, whose exemplars and test images are joined to the new images. begun: see
    `old_tests.find`.
    Raises DataError with everything that is wrong; what the class names alone show is found before images are read.
    """
    if extended:
        extended_data.refuse_method(method, extended)
    new = _load_own(config, partial(_check_classes, config, method, extended=extended), memory)
    new = new._replace(class_tests=fingerprints.of_classes(new))
    if extended is None:
        return new
    tests = old_tests.find(extended, partial(_load_own, only_tests=True), begun)
    return extended_data.join(extended, new, tests, uses_memory=method.uses_memory)


def _load_own(
    config: Config,
    check: Callable[[tuple[str, ...]], None] = lambda class_names: None,
    memory: ImageMemory = OWN_MEMORY,
    *,
    only_tests: bool = False,
) -> sources.Dataset:
    """Reads the images of data.path alone, see `_load`. check, only_tests: see `sources.load`."""
    settings = config.data
    if names.is_own(settings.name):
        return _own(config, check)
    return sources.load(
        settings.name,
        path=settings.path,
        image_size=settings.image_size,
        on_error=settings.on_error,
        exif_orientation=settings.exif_orientation,
        background=settings.background,
        check=check,
        memory=memory,
        storage=storage.wanted(config),
        workers=storage.num_workers(config),
        packed=settings.packed,
        subset=settings.subset,
        one_class=bool(config.run.extends),
        only_tests=only_tests,
    )


def _own(config: Config, check: Callable[[tuple[str, ...]], None]) -> sources.Dataset:
    """Returns the data set that the user's own function returns, checked, also by check(class names).

    The function is called with data.path and data.image_size, each if it has a parameter of that name. Raises DataError
    if what it returns doesn't fit, or if its images are not of the size that data.image_size asks for.
    """
    settings = config.data
    make = names.bind(
        settings.name, settings.options, key="data.name", built_in={}, given=("path", "image_size")
    )
    data = own.checked(make(path=settings.path, image_size=settings.image_size), name=settings.name)
    check(data.class_names)
    height, width = data.train_images.shape[1:3]
    if settings.image_size and (height, width) != (settings.image_size,) * 2:
        raise DataError(
            f"data.image_size: {settings.image_size}, and the images of {settings.name} are {width}x{height}; give "
            "them that size, or data.image_size = 0"
        )
    return data


def _check_classes(
    config: Config, method: Method, class_names: tuple[str, ...], extended: Parent | None
) -> None:
    """Raises DataError, with all mistakes, for an order, increments or a memory that don't fit these classes.

    class_names: by class index, of [data] alone. extended: the run whose classes come before them.
    """
    mistakes = Mistakes()
    if extended:
        with mistakes.collected():
            extended_data.check_names(class_names, extended)
    with mistakes.collected():
        _order(config, class_names)
    with mistakes.collected():
        sizes = _sizes(config, len(class_names), extended)
        learned = [max(2, size) for size in extended.sizes] if extended else []  # nothing is wrong with those any more
        trained = [*learned, *validation.first_of(sizes, config.data.phases)[len(learned) :]]
        if fault := method.fault_of(trained):
            raise DataError(fault)
        _check_memory(config, method, sum(sizes[: len(trained)]))
    mistakes.refuse()


def _order(config: Config, class_names: tuple[str, ...]) -> list[int]:
    return scenario.class_order(
        config.data.class_order,
        num_classes=len(class_names),
        class_names=class_names,
        order_seed=config.data.order_seed,
    )


def _check_memory(config: Config, method: Method, num_classes: int) -> None:
    """Raises DataError for a memory.size that leaves a class without an exemplar; 0 may be meant."""
    settings = config.memory
    if method.uses_memory and not settings.fixed_per_class and 0 < settings.size < num_classes:
        none = "" if method.predict == "nme" else ", or 0 to keep none"
        raise DataError(
            f"memory.size: {settings.size} leaves no exemplar a class once {num_classes} classes are seen; "
            f"at least {num_classes}{none}"
        )
