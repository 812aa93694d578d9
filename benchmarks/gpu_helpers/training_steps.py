"""Training steps for `benchmarks.gpu`: of one model, and of several models at once.

The steps of several models are measured as parallel branches of one CUDA graph, and their convolutions as one grouped
convolution.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F

from benchmarks import measure, step
from benchmarks.gpu_helpers.whole_runs import Record
from cil_func import tree
from cil_func.networks import resnet
from cil_func.runs import setup
from cil_func.training import runners
from cil_func.training.preprocess import DTYPES


class Rig(NamedTuple):
    """What a batch size is measured on.

    size: the batch size. eager, fast: setups without and with compilation. given: the arguments of a training step,
    (train_state, taught, batch, classes, rate).
    """

    size: int
    eager: setup.Setup
    fast: setup.Setup
    given: tuple


def make_rig(size: int, *, options: argparse.Namespace, folder: Path) -> Rig:
    """Returns the rig of a batch size.

    The recipe is that of cifar.toml if the batch has several norm groups, else that of cifar-survey.toml. So the graphs
    are those of the whole runs, which then find them in inductor's cache. folder: for generated images.
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
    """Returns the arguments that `benchmarks.step.ours` passes to a training step."""
    given, recipe = [], eager.experiment.recipe(1, "")
    noted = replace(recipe, step=lambda *arguments: given.append(arguments) or recipe.step(*arguments))
    experiment = replace(eager.experiment, recipe=lambda phase, name: noted)
    step.ours(replace(eager, experiment=experiment), old=step.OLD, seen=step.SEEN)()
    return given[0]


def repeated(function: Callable[[], object], times: int) -> Callable[[], None]:
    """Returns a function that calls another one `times` times, so that the GPU is waited for only once."""

    def call() -> None:
        for _ in range(times):
            function()

    return call


# several models at once


class Branches:
    """A CUDA graph with several functions as parallel branches. Call it to replay the graph.

    functions: each works in place on tensors of its own. They are kept, since the graph only has the addresses of their
    tensors.
    """

    def __init__(self, functions: Sequence[Callable[[], object]]):
        self._functions, self._graph = functions, torch.cuda.CUDAGraph()
        streams = [torch.cuda.Stream() for _ in functions]
        # Each on the stream that its branch will have, so that cuBLAS has a workspace of its own for each
        self._spread(streams, times=runners.WARM_UP)
        with torch.cuda.graph(self._graph):
            self._spread(streams, times=1)

    def _spread(self, streams: Sequence, *, times: int) -> None:
        """Calls each function on its stream, after the work of the current stream, which then waits for all of them."""
        current = torch.cuda.current_stream()
        for stream, function in zip(streams, self._functions, strict=True):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                repeated(function, times)()
        for stream in streams:  # the capture fails if a branch is not joined
            current.wait_stream(stream)

    def __call__(self) -> None:
        self._graph.replay()


def in_place(function: Callable, given: tuple) -> Callable[[], None]:
    """Returns a function that takes a training step and changes a train state in place.

    function: the step. given: its arguments, which are copied.
    """
    train_state, *rest = tree.map(torch.clone, given)

    def call() -> None:
        moved, _ = function(train_state, *rest)
        tree.write(moved, into=train_state)

    return call


def branches(rig: Rig, options: argparse.Namespace, record: Record) -> None:
    """Measures steps of several models, as branches of one graph and as graphs one after the other."""
    function, figures = rig.fast.experiment.recipe(1, "").step, {}
    for models in options.models:
        separate = [Branches([in_place(function, rig.given)]) for _ in range(models)]
        contenders = {
            "successive": lambda separate=separate: [graph() for graph in separate],
            "parallel": Branches([in_place(function, rig.given) for _ in range(models)]),
        }
        figures |= compared("branches", f"{models}_{rig.size}", contenders, rig.fast.experiment.device, options)
    record.keep(figures)


def convolutions(options: argparse.Namespace, settings, record: Record) -> None:
    """Measures the convolutions of several models, separate and grouped, at the sizes of the network's stages."""
    device, figures = torch.device(settings.device), {}
    dtype = DTYPES[settings.precision][1]
    for models in options.models:
        for stage, channels in enumerate(resnet.WIDTHS):
            side = options.image_size >> stage
            shape = (options.batch_sizes[0], channels, side, side)
            calls = dict(zip(("separate", "grouped"), convolution_pair(models, shape, dtype, device), strict=True))
            if device.type == "cuda":  # else the time of the host would be measured
                calls = {name: Branches([call]) for name, call in calls.items()}
            figures |= compared("grouped", f"{models}_stage{stage}", calls, device, options)
    record.keep(figures)


def compared(
    what: str, where: str, contenders: dict[str, Callable], device: torch.device, options: argparse.Namespace
) -> dict[str, float]:
    """Measures two contenders in turn, as {which: function}.

    Returns speedup_{what}_{where} of the second over the first, and microseconds_{which}_{where} of each.
    """
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
    """Returns two functions that compute a 3x3 convolution of each model, forward and backward: separate and grouped.

    shape: of the images of one model, (B, C, H, W); the outputs have the same shape. Both functions return [(output,
    gradient of the images, gradient of the weights), ...]; the grouped one has a single entry for all models.
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
