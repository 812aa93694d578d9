"""What does a GPU show? `python -m benchmarks.gpu [--data FOLDER]`, in under 9 minutes; smaller on a CPU, for tests.

The results file is written after each section and each phase, so that a killed run loses nothing. What doesn't fit into
the time (--minutes) is left out or cut short, with a line that says so. {size} is a batch size: 128 with the recipe of
cifar-survey.toml, 512 in norm groups of 128 with that of cifar.toml. Sections, with their figures:

steps_{size}    microseconds_{eager,compiled,captured}_{size}: one training step without the teacher's part; captured
                means as one CUDA graph, as in a run. seconds_first_*: the first call, with compilation and capture.
                microseconds_{teacher,augment,draw}_{size}: what each batch needs besides, computed in the large chunks
                of a run (draw is on the host, while the GPU works). images_per_second_{size}: of the best step, teacher
                and augment together. floor_fraction_{size}: the time that the step's convolutions would take at the
                rate of a matrix product, over the time of the best step.
                speedup_compiled_{size}: eager over compiled. speedup_captured_{size}: compiled over captured
kernels_{size}  kernels_{eager,compiled,captured}_{size}: kernels a step. share_{convolution,fused,other}_{size}: of the
                kernels' time in the best step; fused: kernels that inductor generates, for batch norm with the ReLU,
                shortcut and casts around it, the loss and the update
convolutions    speedup_grouped_{models}_stage{stage}: the 3x3 convolutions of several models, forward and backward, one
                after the other over one grouped convolution (as vmap over weights does it), and microseconds of each
branches_{size} speedup_branches_{models}_{size}: steps of several models as graphs one after the other over the same as
                parallel branches of one graph, and microseconds of each
run_{name}      a whole run of a preset on the images of FOLDER, or on generated ones: seconds by section, accuracies,
                images_per_second (median of the epochs), phases_done and epochs_done out of phases and epochs
"""

import argparse
import os
import re
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import measure, step
from benchmarks.gpu_helpers.training_steps import Rig, branches, convolutions, make_rig, repeated
from benchmarks.gpu_helpers.whole_runs import Budget, Record, attempt, conditions_of, learn
from cil_func import config as configuration
from cil_func.data.augmentation import augment
from cil_func.networks.network import Model
from cil_func.parallel.launch import Launch
from cil_func.runs import profiling
from cil_func.runs.environment import resolve
from cil_func.training import runners

_TRACED = 3  # steps in a trace
_RESERVE = 20.0  # seconds for what can't be cut short: imports, a selection, an evaluation
KINDS = ("convolution", "fused", "other")


def main(arguments: list[str] | None = None) -> int:
    """Runs the sections for which there is time. Returns 1 if one of them failed, after all others."""
    options = parse(arguments)
    budget = Budget(60 * options.minutes - _RESERVE)
    settings = resolve(configuration.load("cifar", options.set), Launch()).run
    if settings.device == "cuda":  # CUPTI, torn down between traces, may crash beside graphs (says torch.profiler)
        os.environ.setdefault("TEARDOWN_CUPTI", "0")
    runners.name_kernels()
    record = Record(conditions_of(options, settings), options.json)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="benchmark-gpu-") as scratch:
        for name, section in sections(options, settings, Path(scratch), budget, record).items():
            failed += not attempt(name, section, budget, record)
    print(record.path)
    return 1 if failed else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Returns the flags. Those that are not listed in --help are sizes for tests."""
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


def sections(
    options: argparse.Namespace, settings, folder: Path, budget: Budget, record: Record
) -> dict[str, Callable[[], None]]:
    """Returns {name: function} of the sections, in order.

    settings: the resolved table [run]. folder: for generated images. budget: of the time. record: of the figures.
    """
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


# training steps


def modes(rig: Rig) -> dict[str, Callable[[], None]]:
    """Returns {mode: a function that takes one training step}: eager, compiled and, on a GPU, captured.

    They are in this order, so that the fastest is the last.
    """
    train_state, taught, batch, classes, rate = rig.given
    threaders = {"eager": (runners.EagerSteps, rig.eager), "compiled": (runners.EagerSteps, rig.fast)}
    if rig.fast.experiment.captured:
        threaders["captured"] = (runners.CapturedSteps, rig.fast)
    return {
        name: partial(threader(ready.experiment.recipe(1, "").step, train_state, classes), taught, batch, rate)
        for name, (threader, ready) in threaders.items()
    }


def steps(rig: Rig, options: argparse.Namespace, record: Record) -> None:
    """Measures the microseconds of a step and of what comes with a batch: see the module's docstring."""
    size, ready, called = rig.size, rig.fast, modes(rig)
    device = ready.experiment.device
    first = {name: _first(call, device) for name, call in called.items()}
    contenders = {name: (repeated(call, options.calls), options.calls * size) for name, call in called.items()}
    contenders |= ahead(rig, options)  # name -> (function, images that it handles)
    seconds = step.interleaved(
        {name: function for name, (function, _) in contenders.items()}, repeats=options.repeats, device=device
    )
    micro = {name: 1e6 * statistics.median(seconds[name]) * size / images for name, (_, images) in contenders.items()}
    best = list(called)[-1]
    # floor_seconds counts four forward passes: one, two for the backward pass, and the teacher's. The step has three.
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
    """Returns what is computed ahead of the steps, in chunks: {name: (function, number of images of a call)}.

    The names are teacher, augment and draw, see the module's docstring.
    """
    made, (params, state, *_) = rig.fast.experiment, rig.given[0]
    few = made.forward.batch_size
    many = max(few, augment.CHUNK_PIXELS[made.device.type] // options.image_size**2)
    images, _ = step.batch(many, options.image_size, step.SEEN, made.device)
    draws = made.augment.draw(0, many)
    return {
        "teacher": (partial(made.forward.outputs, Model(params, state), images[:few]), few),
        "augment": (partial(made.augment.apply, images, draws), many),
        "draw": (partial(made.augment.draw, 0, many), many),
    }


def _first(call: Callable[[], object], device: torch.device) -> float:
    """Returns the seconds of one call, the GPU waited for."""
    (seconds,) = step.interleaved({"": call}, repeats=1, device=device, warmup=0)[""]
    return seconds


# what a step consists of


def kernels(rig: Rig, options: argparse.Namespace, record: Record) -> None:
    """Counts the kernels of a step in each mode, and measures which kinds take the best step's time."""
    figures = {}
    for name, call in modes(rig).items():
        trace = traced(call, rig.fast.experiment.device)
        figures[f"kernels_{name}_{rig.size}"] = profiling.kernels(trace) / _TRACED
    record.keep(figures | {f"share_{kind}_{rig.size}": share for kind, share in shares(trace).items()})


def traced(call: Callable[[], object], device: torch.device) -> profile:
    """Returns a profiler's trace of _TRACED calls of a function, after its warm-up calls.

    Raises RuntimeError if the profiler can't see the GPU.
    """
    cuda = device.type == "cuda"
    repeated(call, runners.WARM_UP)()
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
    """Returns {kind of KINDS: its share of the kernels' time, 0 to 1}.

    Without a GPU it is the share of the time of all operations on the CPU.
    """
    spent = Counter()
    on_gpu = _on_gpu(trace)
    for event in on_gpu or trace.events():
        spent[kind(event.name)] += event.time_range.elapsed_us() if on_gpu else event.self_cpu_time_total
    return {name: spent[name] / max(sum(spent.values()), 1e-9) for name in KINDS}


def kind(name: str) -> str:
    """Returns the kind of a kernel, one of KINDS, by the name that cuDNN, cuBLAS, torch or inductor gave it."""
    if re.search(r"^triton|cpp_fused", name):  # asked first, since inductor's names contain "convolution_backward" too
        return "fused"
    return "convolution" if re.search(r"conv(?!ert)|cudnn|fprop|dgrad|wgrad|winograd", name.lower()) else "other"


def _on_gpu(trace: profile) -> list:
    events = [event for event in trace.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return [event for event in events if not getattr(event, "is_user_annotation", False)]


if __name__ == "__main__":
    sys.exit(main())
