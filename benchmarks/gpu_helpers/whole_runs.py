"""The time budget, the results file and the failures of `benchmarks.gpu`'s sections, and its whole runs."""

import argparse
import json
import statistics
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import measure, run
from cil_func import config as configuration
from cil_func import experiment
from cil_func.runs import counting, setup


class Budget:
    """Counts down `seconds` from now on. clock: returns seconds."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic):
        self._end, self._clock = clock() + seconds, clock

    def left(self) -> float:
        """Returns the seconds that are left; negative if they are over."""
        return self._end - self._clock()


class Record:
    """Figures and conditions, which are written to the results file as soon as they are known.

    json_path: of the file, None for the usual one. path: of the file once it is written, None before.
    """

    def __init__(self, conditions: dict, json_path: Path | None):
        self.figures, self.conditions, self.path = {}, conditions | {"sections": {}, "left_out": {}}, None
        self._json_path = json_path

    def keep(self, figures: dict[str, float], *, show: bool = True) -> None:
        """Adds figures and writes the file. show: whether to print the figures as a table."""
        self.figures |= figures
        if show and figures:
            measure.table([["figure", "value"], *figures.items()])
        self.path = measure.write("gpu", self.figures, self.conditions, self._json_path)

    def leave_out(self, what: str, why: str) -> None:
        """Prints and records what is missing or incomplete, and why."""
        print(f"{what}: {why}", flush=True)
        self.conditions["left_out"][what] = why
        self.keep({})


def conditions_of(options: argparse.Namespace, settings) -> dict:
    """Returns what the figures depend on. settings: the resolved table [run]."""
    named = ("image_size", "backbone", "batch_sizes", "norm_batch", "models", "repeats", "calls", "minutes", "set")
    return {
        **measure.conditions(settings.device, commit=options.commit),
        "precision": settings.precision,
        "generated_images": options.data is None,
        **{name: getattr(options, name) for name in named},
    }


def attempt(name: str, section: Callable[[], None], budget: Budget, record: Record) -> bool:
    """Runs a section if there is time. Returns False if it failed. A failure doesn't stop the later sections.

    name, section: its name and function. record: gets the section's seconds, or why it is missing.
    """
    if budget.left() <= 0:
        record.leave_out(name, "left out, no time is left")
        return True
    print(f"\n{name} ({budget.left():.0f} s are left)", flush=True)
    clock, well = time.perf_counter(), True
    try:
        section()
    except Exception as error:
        well = False
        traceback.print_exc()
        record.leave_out(name, f"failed, {type(error).__name__}")
        if record.conditions["device"] == "cuda":  # after a failed capture its stream would stay current
            torch.cuda.set_stream(torch.cuda.default_stream())
    record.conditions["sections"][name] = round(time.perf_counter() - clock, 1)
    record.keep({})
    return well


# whole runs


class OutOfTime(Exception):
    """There is no time left in the middle of a run."""


def learn(name: str, options: argparse.Namespace, folder: Path, budget: Budget, record: Record) -> None:
    """Runs a preset. It is left out if there is no time for its first phase, and is cut short if the time is over.

    name: of the preset. folder: for generated images. record: gets the figures after each phase.
    """
    config, clock = load(name, options, folder), time.perf_counter()
    ready = setup.build(config)
    loaded = time.perf_counter() - clock
    record.conditions[f"config_{name}"] = configuration.to_dict(ready.config)
    record.conditions[f"config_{name}"]["data"]["path"] = ""  # a path of this machine tells nothing
    results, epochs = {"phases": []}, []

    def keep(*, show: bool = False) -> None:
        seconds = {"data": loaded, "wall": time.perf_counter() - clock}
        record.keep(figures_of(name.replace("-", "_"), ready, results, epochs, seconds), show=show)

    needed, left = first_phase_seconds(ready, record.figures), budget.left()
    if needed > left:
        why = f"left out, its first phase would take about {needed:.0f} s, and {left:.0f} s are left"
        record.leave_out(f"run_{name}", why)
    elif not trained(name, ready, results, epochs, keep, budget):
        phases = len(ready.experiment.scenario.phases)
        done = f"{len(results['phases'])} of {phases} phases and {len(epochs)} epochs are done"
        record.leave_out(f"run_{name}", f"cut short, the time is over; {done}")
    keep(show=True)


def trained(
    name: str, ready: setup.Setup, results: dict, epochs: list[dict], keep: Callable[[], None], budget: Budget
) -> bool:
    """Trains all phases, or as many as there is time for. Returns whether all are trained.

    name: of the run, for printing. ready: the run. results, epochs: filled with the results so far and the epoch
    events. keep: called after each phase.
    """

    def save(found: dict) -> None:
        results.update(found)
        keep()

    def emit(event: dict) -> None:
        if event["event"] == "epoch":
            epochs.append(event)
        if event["event"] == "phase_end":
            took = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in event["seconds"].items())
            print(f"{name} phase {event['phase']}: top-1 {event['top1']:.2f}, {took}", flush=True)
        if budget.left() <= 0 and len(results["phases"]) < len(ready.experiment.scenario.phases):
            raise OutOfTime

    if ready.experiment.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        experiment.run(ready.experiment, emit=emit, save=save)
    except OutOfTime:
        return False
    return True


def load(name: str, options: argparse.Namespace, folder: Path) -> configuration.Config:
    """Returns the configuration of a preset, on the images of --data, or on images that it generates in `folder`."""
    images = options.data or folder / "images"
    if not images.is_dir():
        print("generating images", flush=True)
        counts = {"train": options.train_images, "test": options.test_images}
        measure.write_images(images, classes=options.classes, size=options.image_size, **counts)
    settings = [
        "data.name=image_folder", f"data.path={json.dumps(str(images.resolve()))}",
        f"data.image_size={options.image_size}", f"model.backbone={options.backbone}",
    ]  # fmt: skip
    if options.epochs:
        settings += [f"optim.epochs={options.epochs}", "optim.schedule=cosine", "optim.first_phase={}"]
    return configuration.load(name, [*settings, *options.set])


def first_phase_seconds(ready: setup.Setup, figures: dict[str, float]) -> float:
    """Returns how many seconds phase 0 will take, with compilation, by the figures of its batch size; 0 if unknown."""
    recipe = ready.experiment.recipe(0, "")
    rate = figures.get(f"images_per_second_{recipe.batch_size}")
    if rate is None:
        return 0.0
    compilation = figures.get(f"seconds_first_compiled_{recipe.batch_size}", 0.0)
    return compilation + recipe.epochs * counting.train_images(ready.experiment)[0] / rate


def figures_of(
    name: str, ready: setup.Setup, results: dict, epochs: list[dict], seconds: dict[str, float]
) -> dict[str, float]:
    """Returns the figures of a run so far: those of `benchmarks.run`, and how many phases and epochs are done.

    name: of the run, at the end of each figure's name. ready: the run. results, epochs: what is done. seconds: {"data":
    of the setup, "wall": since the start}.
    """
    phases, done = ready.experiment.scenario.phases, len(results["phases"])
    found = {
        "phases_done": done,
        "phases": len(phases),
        "epochs_done": len(epochs),
        "epochs": sum(ready.experiment.recipe(phase.index, "").epochs for phase in phases),
    }
    if epochs:
        found["images_per_second"] = statistics.median(epoch["images_per_second"] for epoch in epochs)
        found["seconds_first_epoch"] = epochs[0]["seconds"]  # with compilation and capture
    flat = {f"{key}_{name}": value for key, value in found.items()}
    if done:
        part = run.summary(results, {"data": seconds["data"]}) | {"wall": seconds["wall"]}
        if ready.experiment.device.type == "cuda":
            part["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
        flat |= run.figures({name: part})
    partial_means = set() if done == len(phases) else {f"average_{name}", f"last_{name}"}
    return {key: value for key, value in flat.items() if value is not None and key not in partial_means}
