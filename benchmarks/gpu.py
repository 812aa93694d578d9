"""What does a GPU show? `python -m benchmarks.gpu [--data FOLDER]`, in under 9 minutes; smaller on a CPU, for tests.

The results file is written after each section and each phase: a killed run has lost nothing. What the time
(--minutes) has no room for is left out or cut short, and said so. {size} is a batch size: 128 by the recipe of
cifar-survey.toml, 512 in norm groups of 128 by that of cifar.toml. Sections, with their figures:

steps_{size}    microseconds_{eager,compiled,captured}_{size}: one training step, the teacher's part aside; captured as
                one CUDA graph, as a run does. seconds_first_*: the first call, with compilation and capture.
                microseconds_{teacher,augment,draw}_{size}: what comes with each batch, done in the run's large chunks
                (draw is on the host, beside the GPU). images_per_second_{size}: of the best step, teacher and augment
                together. floor_fraction_{size}: time that the step's convolutions take at the rate of a matrix
                product, over the time of the best step.
                speedup_compiled_{size}: eager over compiled. speedup_captured_{size}: compiled over captured
kernels_{size}  kernels_{eager,compiled,captured}_{size}: kernels a step. share_{convolution,fused,other}_{size}: of the
                kernels' time in the best step; fused: what inductor generates, that is batch norm with the ReLU,
                shortcut and casts around it, the loss and the update
convolutions    speedup_grouped_{models}_stage{stage}: the 3x3 convolutions of several models, forward and backward, one
                after the other over one grouped convolution (which vmap over weights becomes), and microseconds of each
branches_{size} speedup_branches_{models}_{size}: steps of several models as graphs one after the other over the same as
                parallel branches of one graph, and microseconds of each
run_{name}      a whole run of a preset on the images of FOLDER, or on generated ones: seconds by section, accuracies,
                images_per_second (median of the epochs), phases_done and epochs_done out of phases and epochs
"""

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks import measure, run, step
from cil_func import config as configuration
from cil_func import experiment, planning, profiling, setup, tree
from cil_func.data import augment
from cil_func.engine import compile, infer
from cil_func.nn import resnet

_WARM_UP = 3  # calls before a capture or a trace
_TRACED = 3  # steps in a trace
_RESERVE = 20.0  # seconds kept for what can't be cut short: imports, a selection, an evaluation
KINDS = ("convolution", "fused", "other")


def main(arguments: list[str] | None = None) -> int:
    """Runs the sections that the time allows; 1 if one of them failed, after the others."""
    options = parse(arguments)
    budget = Budget(60 * options.minutes - _RESERVE)
    settings = setup.resolve(configuration.load("cifar", options.set)).run
    if settings.device == "cuda":  # CUPTI, torn down between traces, may crash beside graphs (says torch.profiler)
        os.environ.setdefault("TEARDOWN_CUPTI", "0")
    compile.name_kernels()
    record = Record(conditions_of(options, settings), options.json)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="benchmark-gpu-") as scratch:
        for name, section in sections(options, settings, Path(scratch), budget, record).items():
            failed += not attempt(name, section, budget, record)
    print(record.path)
    return 1 if failed else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The flags; the sizes that are not listed are for tests."""
    parser, hidden = measure.parser(__doc__), argparse.SUPPRESS

    def words(text: str) -> list[str]:
        return [word for word in text.split(",") if word]

    def numbers(text: str) -> list[int]:
        return [int(word) for word in words(text)]

    parser.add_argument("--minutes", type=float, default=9.0, help="all of it, from the start")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="train/<class>/*.png and test/<class>/*.png")
    parser.add_argument("--runs", type=words, default=["cifar", "cifar-survey"], help='presets; "": none')
    parser.add_argument("--batch-sizes", type=numbers, default=[128, 512])
    parser.add_argument("--models", type=numbers, default=[2, 4], help="how many side by side")
    parser.add_argument("--repeats", type=int, default=20, help="measurements of each contender")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="overrides all recipes")
    parser.add_argument("--calls", type=int, default=10, help=hidden)  # steps in a measurement
    parser.add_argument("--norm-batch", type=int, default=128, help=hidden)
    parser.add_argument("--image-size", type=int, default=32, help=hidden)
    parser.add_argument("--backbone", default="resnet32", help=hidden)
    parser.add_argument("--epochs", type=int, default=0, help=hidden)  # of each phase, by a cosine; 0: the preset's
    parser.add_argument("--classes", type=int, default=100, help=hidden)  # of generated images
    parser.add_argument("--train-images", type=int, default=500, help=hidden)  # a class
    parser.add_argument("--test-images", type=int, default=100, help=hidden)
    options = parser.parse_args(arguments)
    if options.data and not (options.data / "train").is_dir():
        parser.error(f"--data {options.data} has no folder train; give one with train/<class>/*.png")
    return options


# what all sections share


class Budget:
    """How many seconds are left of `seconds` from now on."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic):
        self._end, self._clock = clock() + seconds, clock

    def left(self) -> float:
        return self._end - self._clock()


class Record:
    """Figures and conditions, in the results file as soon as they are known. path: None until something is."""

    def __init__(self, conditions: dict, json_path: Path | None):
        self.figures, self.conditions, self.path = {}, conditions | {"sections": {}, "left_out": {}}, None
        self._json_path = json_path

    def keep(self, figures: dict[str, float], *, show: bool = True) -> None:
        """Adds figures, prints them as a table, writes the file."""
        self.figures |= figures
        if show and figures:
            measure.table([["figure", "value"], *figures.items()])
        self.path = measure.write("gpu", self.figures, self.conditions, self._json_path)

    def leave_out(self, what: str, why: str) -> None:
        """Says what is missing or incomplete, and why, on one line and in the file."""
        print(f"{what}: {why}", flush=True)
        self.conditions["left_out"][what] = why
        self.keep({})


def conditions_of(options: argparse.Namespace, settings) -> dict:
    """What the figures depend on; settings: the resolved [run]."""
    named = ("image_size", "backbone", "batch_sizes", "norm_batch", "models", "repeats", "calls", "minutes", "set")
    return {
        **measure.conditions(settings.device, commit=options.commit),
        "precision": settings.precision,
        "generated_images": options.data is None,
        **{name: getattr(options, name) for name in named},
    }


def sections(
    options: argparse.Namespace, settings, folder: Path, budget: Budget, record: Record
) -> dict[str, Callable[[], None]]:
    """The sections by name, in order."""
    rig = cache(partial(make_rig, options=options, folder=folder))
    sizes, planned = options.batch_sizes, {}
    for name, section in (("steps", steps), ("kernels", kernels)):
        planned |= {f"{name}_{size}": lambda size=size, section=section: section(rig(size), options, record)
                    for size in sizes}  # fmt: skip
    planned["convolutions"] = lambda: convolutions(options, settings, record)
    if settings.device == "cuda":
        planned |= {f"branches_{size}": lambda size=size: branches(rig(size), options, record) for size in sizes}
    else:
        for what in ("captured", "branches"):
            record.leave_out(what, "left out, a CUDA graph needs a GPU")
    return planned | {f"run_{name}": partial(learn, name, options, folder, budget, record) for name in options.runs}


def attempt(name: str, section: Callable[[], None], budget: Budget, record: Record) -> bool:
    """Runs a section if time is left; whether it went well. What one of them meets must not cost the later ones."""
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
        if record.conditions["device"] == "cuda":  # a capture that failed leaves its own stream behind
            torch.cuda.set_stream(torch.cuda.default_stream())
    record.conditions["sections"][name] = round(time.perf_counter() - clock, 1)
    record.keep({})
    return well


# training steps


class Rig(NamedTuple):
    """A batch size's setups, uncompiled and compiled, and (train_state, taught, batch, classes, rate) for a step."""

    size: int
    eager: setup.Setup
    fast: setup.Setup
    given: tuple


def make_rig(size: int, *, options: argparse.Namespace, folder: Path) -> Rig:
    """The recipe of cifar.toml where the batch has norm groups, else that of `benchmarks.step`, cifar-survey.toml's.

    So the graphs are those of the whole runs, which then find them in inductor's cache.
    """
    images = folder / "few"
    if not images.is_dir():
        measure.write_images(images, classes=step.ALL, train=2, test=1, size=options.image_size)
    groups = ["method.kd_combination=convex", "method.kd_weight=dynamic", f"optim.norm_batch={options.norm_batch}"]
    recipe = [*options.set, *(groups if size > options.norm_batch else [])]

    def build(compiled: str) -> setup.Setup:
        sized = {"batch_size": size, "set": [*recipe, f"run.compile={compiled}"]}
        return step.build(images, "auto", argparse.Namespace(**vars(options) | sized))

    eager = build("false")
    return Rig(size, eager, build("true"), inputs(eager))


def inputs(eager: setup.Setup) -> tuple:
    """What `benchmarks.step.ours` gives to a training step: (train_state, taught, batch, classes, rate)."""
    given, trainer = [], eager.trainers[1]
    noted = replace(trainer, step=lambda *arguments: given.append(arguments) or trainer.step(*arguments))
    step.ours(replace(eager, trainers=(noted, noted)), old=step.OLD, seen=step.SEEN)()
    return given[0]


def modes(rig: Rig) -> dict[str, Callable[[], None]]:
    """A training step, eager, compiled, and where a GPU is captured: the best one last."""
    train_state, taught, batch, classes, rate = rig.given
    threaders = {"eager": (compile.Threaded, rig.eager), "compiled": (compile.Threaded, rig.fast)}
    if rig.fast.captures:
        threaders["captured"] = (compile.Captured, rig.fast)
    return {
        name: partial(threader(ready.trainers[1].step, train_state, classes), taught, batch, rate)
        for name, (threader, ready) in threaders.items()
    }


def steps(rig: Rig, options: argparse.Namespace, record: Record) -> None:
    """Microseconds a step and a batch; see the module."""
    size, ready, called = rig.size, rig.fast, modes(rig)
    first = {name: _first(call, ready.device) for name, call in called.items()}
    contenders = {name: (repeated(call, options.calls), options.calls * size) for name, call in called.items()}
    contenders |= ahead(rig, options)  # name -> (function, images that it handles)
    seconds = step.interleaved(
        {name: function for name, (function, _) in contenders.items()}, repeats=options.repeats, device=ready.device
    )
    micro = {name: 1e6 * statistics.median(seconds[name]) * size / images for name, (_, images) in contenders.items()}
    best = list(called)[-1]
    # Of floor_seconds' four forward passes (twice more backward, once the teacher) three are the step's
    floor = 0.75e6 * step.floor_seconds(ready)
    speedups = {"compiled": measure.ratio(seconds["eager"], seconds["compiled"])}
    if "captured" in called:
        speedups["captured"] = measure.ratio(seconds["compiled"], seconds["captured"])
    record.keep({
        **{f"seconds_first_{name}_{size}": value for name, value in first.items()},
        **{f"microseconds_{name}_{size}": value for name, value in micro.items()},
        f"images_per_second_{size}": 1e6 * size / (micro[best] + micro["teacher"] + micro["augment"]),
        f"floor_fraction_{size}": floor / micro[best],
        **{f"speedup_{name}_{size}": value for name, value in speedups.items()},
    })


def ahead(rig: Rig, options: argparse.Namespace) -> dict[str, tuple[Callable[[], object], int]]:
    """What is done ahead of the steps, in chunks: name -> (function, images that it handles)."""
    ready, (params, state, *_) = rig.fast, rig.given[0]
    few = ready.forward_batch
    many = max(few, augment.CHUNK_PIXELS[ready.device.type] // options.image_size**2)
    images, _ = step.batch(many, options.image_size, step.SEEN, ready.device)
    draws, batch = ready.augment.draw(0, many), images[:few]
    teach = partial(infer.features, ready.forward, params, state, batch, batch_size=few, device=ready.device)
    return {
        "teacher": (teach, few),
        "augment": (partial(ready.augment.apply, images, draws), many),
        "draw": (partial(ready.augment.draw, 0, many), many),
    }


def repeated(function: Callable[[], object], times: int) -> Callable[[], None]:
    """One call that calls `times` times: what is waited for once is shared out."""

    def call() -> None:
        for _ in range(times):
            function()

    return call


def _first(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call."""
    (seconds,) = step.interleaved({"": call}, repeats=1, device=device, warmup=0)[""]
    return seconds


# what a step consists of


def kernels(rig: Rig, options: argparse.Namespace, record: Record) -> None:
    """How many kernels a step is, and what kinds of them take its time."""
    figures = {}
    for name, call in modes(rig).items():
        trace = traced(call, rig.fast.device)
        figures[f"kernels_{name}_{rig.size}"] = profiling.kernels(trace) / _TRACED
    record.keep(figures | {f"share_{kind}_{rig.size}": share for kind, share in shares(trace).items()})


def traced(call: Callable[[], object], device: torch.device) -> profile:
    """A trace of some calls after the warm-up. Raises RuntimeError if the profiler can't see the GPU."""
    cuda = device.type == "cuda"
    repeated(call, _WARM_UP)()
    if cuda:
        torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda, acc_events=True) as trace:
        repeated(call, _TRACED)()
        if cuda:
            torch.cuda.synchronize()
    if cuda and not _on_gpu(trace):
        raise RuntimeError("the profiler saw no kernel of the GPU")
    return trace


def shares(trace: profile) -> dict[str, float]:
    """The share of each kind in the kernels' time: the GPU's, or without one that of all operations on the CPU."""
    spent = Counter()
    on_gpu = _on_gpu(trace)
    for event in on_gpu or trace.events():
        spent[kind(event.name)] += event.time_range.elapsed_us() if on_gpu else event.self_cpu_time_total
    return {name: spent[name] / max(sum(spent.values()), 1e-9) for name in KINDS}


def kind(name: str) -> str:
    """The kind of a kernel, from the name that cuDNN, cuBLAS, torch or inductor gave it."""
    if re.search(r"^triton|cpp_fused", name):  # first: inductor names what it fused, "convolution_backward" too
        return "fused"
    return "convolution" if re.search(r"conv(?!ert)|cudnn|fprop|dgrad|wgrad|winograd", name.lower()) else "other"


def _on_gpu(trace: profile) -> list:
    events = [event for event in trace.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return [event for event in events if not getattr(event, "is_user_annotation", False)]


# several models at once


class Branches:
    """Functions that work in place on tensors of their own, as parallel branches of one CUDA graph: call it to replay.

    It holds the functions, for the graph has but the addresses of their tensors.
    """

    def __init__(self, functions: Sequence[Callable[[], object]]):
        self._functions, self._graph = functions, torch.cuda.CUDAGraph()
        streams = [torch.cuda.Stream() for _ in functions]
        # Each on the stream that its branch will have: so cuBLAS has a workspace for each, and none is shared
        self._spread(streams, times=_WARM_UP)
        with torch.cuda.graph(self._graph):
            self._spread(streams, times=1)

    def _spread(self, streams: Sequence, *, times: int) -> None:
        """Calls each function on its stream; all start from the current stream, and it goes on when all are done."""
        current = torch.cuda.current_stream()
        for stream, function in zip(streams, self._functions, strict=True):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                repeated(function, times)()
        for stream in streams:  # a branch that is not joined makes the capture fail
            current.wait_stream(stream)

    def __call__(self) -> None:
        self._graph.replay()


def in_place(function: Callable, given: tuple) -> Callable[[], None]:
    """A training step that moves a train state in place: a copy of its own, as of all else that it reads."""
    train_state, *rest = tree.map(torch.clone, given)

    def call() -> None:
        moved, _ = function(train_state, *rest)
        torch._foreach_copy_(tree.leaves(train_state), tree.leaves(moved))

    return call


def branches(rig: Rig, options: argparse.Namespace, record: Record) -> None:
    """Steps of several models, in one graph side by side and in graphs one after the other."""
    function, figures = rig.fast.trainers[1].step, {}
    for models in options.models:
        separate = [Branches([in_place(function, rig.given)]) for _ in range(models)]
        contenders = {
            "successive": lambda separate=separate: [graph() for graph in separate],
            "parallel": Branches([in_place(function, rig.given) for _ in range(models)]),
        }
        figures |= compared("branches", f"{models}_{rig.size}", contenders, rig.fast.device, options)
    record.keep(figures)


def convolutions(options: argparse.Namespace, settings, record: Record) -> None:
    """The convolutions of several models, separate and grouped, at the sizes of the network's stages."""
    device, figures = torch.device(settings.device), {}
    dtype = setup.DTYPES[settings.precision][1]
    for models in options.models:
        for stage, channels in enumerate(resnet.WIDTHS):
            side = options.image_size >> stage
            shape = (options.batch_sizes[0], channels, side, side)
            calls = dict(zip(("separate", "grouped"), convolution_pair(models, shape, dtype, device), strict=True))
            if device.type == "cuda":  # else it would be the host's time that is measured
                calls = {name: Branches([call]) for name, call in calls.items()}
            figures |= compared("grouped", f"{models}_stage{stage}", calls, device, options)
    record.keep(figures)


def compared(
    what: str, where: str, contenders: dict[str, Callable], device: torch.device, options: argparse.Namespace
) -> dict[str, float]:
    """speedup_{what}_{where} of the second contender over the first, and microseconds_{which}_{where} of each."""
    calls = {which: repeated(call, options.calls) for which, call in contenders.items()}
    seconds = step.interleaved(calls, repeats=options.repeats, device=device)
    times = {which: 1e6 * statistics.median(values) / options.calls for which, values in seconds.items()}
    return {
        f"speedup_{what}_{where}": measure.ratio(*seconds.values()),
        **{f"microseconds_{which}_{where}": value for which, value in times.items()},
    }


def convolution_pair(
    models: int, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
) -> tuple[Callable[[], list], Callable[[], list]]:
    """Forward and backward of a 3x3 convolution (B, C, H, W) -> (B, C, H, W) of each model, one by one and grouped.

    Both return [(output, gradient of the images, gradient of the weights), ...], grouped with one entry.
    """
    batch, channels, *sides = shape

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(size).to(device, dtype).contiguous(memory_format=torch.channels_last)

    images, outer = (draw(batch, models * channels, *sides) for _ in range(2))
    weights = draw(models * channels, channels, 3, 3)

    def call(parts: list[tuple[torch.Tensor, ...]], groups: int) -> list[tuple[torch.Tensor, ...]]:
        found = []
        for x, weight, gradient in parts:
            y = F.conv2d(x, weight, padding=1, groups=groups)
            found.append((y, *torch.autograd.grad(y, (x, weight), gradient)))
        return found

    def leaf(part: torch.Tensor) -> torch.Tensor:
        return part.clone(memory_format=torch.channels_last).requires_grad_()

    pieces = zip(images.chunk(models, 1), weights.chunk(models), outer.chunk(models, 1), strict=True)
    separate = [(leaf(x), leaf(weight), gradient.contiguous(memory_format=torch.channels_last))
                for x, weight, gradient in pieces]  # fmt: skip
    return partial(call, separate, 1), partial(call, [(leaf(images), leaf(weights), outer)], models)


# whole runs


class OutOfTime(Exception):
    """The budget is spent in the middle of a run."""


def learn(name: str, options: argparse.Namespace, folder: Path, budget: Budget, record: Record) -> None:
    """A whole run by a preset; it isn't begun without time for its first phase, and is cut short when time is over."""
    config, clock = load(name, options, folder), time.perf_counter()
    ready = setup.build(config)
    loaded = time.perf_counter() - clock
    record.conditions[f"config_{name}"] = configuration.to_dict(ready.config)
    record.conditions[f"config_{name}"]["data"]["path"] = ""  # not this machine's
    results, epochs = {"phases": []}, []

    def keep(*, show: bool = False) -> None:
        seconds = {"data": loaded, "wall": time.perf_counter() - clock}
        record.keep(figures_of(name.replace("-", "_"), ready, results, epochs, seconds), show=show)

    needed, left = first_phase_seconds(ready, record.figures), budget.left()
    if needed > left:
        why = f"left out, its first phase would take about {needed:.0f} s, and {left:.0f} s are left"
        record.leave_out(f"run_{name}", why)
    elif not trained(name, ready, results, epochs, keep, budget):
        done = f"{len(results['phases'])} of {len(ready.scenario.phases)} phases and {len(epochs)} epochs are done"
        record.leave_out(f"run_{name}", f"cut short, the time is over; {done}")
    keep(show=True)


def trained(
    name: str, ready: setup.Setup, results: dict, epochs: list[dict], keep: Callable[[], None], budget: Budget
) -> bool:
    """Learns all phases, or until the budget is spent: whether all. Fills results and epochs, keeps them by phase."""

    def save(found: dict) -> None:
        results.update(found)
        keep()

    def emit(event: dict) -> None:
        if event["event"] == "epoch":
            epochs.append(event)
        if event["event"] == "phase_end":
            took = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in event["seconds"].items())
            print(f"{name} phase {event['phase']}: top-1 {event['top1']:.2f}, {took}", flush=True)
        if budget.left() <= 0 and len(results["phases"]) < len(ready.scenario.phases):
            raise OutOfTime

    if ready.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        experiment.run(ready, emit=emit, save=save)
    except OutOfTime:
        return False
    return True


def load(name: str, options: argparse.Namespace, folder: Path) -> configuration.Config:
    """A preset on the images that were named, or on new ones made in `folder`."""
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
    """What phase 0 will take by the figures of its batch size, a compilation included; 0 if there are none."""
    trainer = ready.trainers[0]
    rate = figures.get(f"images_per_second_{trainer.batch_size}")
    if rate is None:
        return 0.0
    compilation = figures.get(f"seconds_first_compiled_{trainer.batch_size}", 0.0)
    return compilation + trainer.epochs * planning.train_images(ready)[0] / rate


def figures_of(
    name: str, ready: setup.Setup, results: dict, epochs: list[dict], seconds: dict[str, float]
) -> dict[str, float]:
    """The figures of a run so far: those of `benchmarks.run`, and how far it is."""
    phases, done = ready.scenario.phases, len(results["phases"])
    found = {
        "phases_done": done,
        "phases": len(phases),
        "epochs_done": len(epochs),
        "epochs": sum(ready.trainer(phase).epochs for phase in phases),
    }
    if epochs:
        found["images_per_second"] = statistics.median(epoch["images_per_second"] for epoch in epochs)
        found["seconds_first_epoch"] = epochs[0]["seconds"]  # with compilation and capture
    flat = {f"{key}_{name}": value for key, value in found.items()}
    if done:
        part = run.summary(results, {"data": seconds["data"]}) | {"wall": seconds["wall"]}
        if ready.device.type == "cuda":
            part["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
        flat |= run.figures({name: part})
    partial_means = set() if done == len(phases) else {f"average_{name}", f"last_{name}"}
    return {key: value for key, value in flat.items() if value is not None and key not in partial_means}


if __name__ == "__main__":
    sys.exit(main())
