"""How long does a training step with a teacher take, ours and the conventional one? `python -m benchmarks.step`.

WA on 60 of 100 classes, 50 of them old, with ResNet-32 and 128 images of 32x32 on the device. Contenders, in turn:

    conventional   torch.nn, autograd, torch.optim.SGD in float32 NCHW, as the toolboxes train
    tuned          the same with channels_last, and with bfloat16 autocast if `auto` is bfloat16
    float32, auto  this package at that precision: the teacher's compiled forward pass and the compiled step, from uint8
                   pixels

The floor is the time that the step's convolutions would take at the rate of this machine's matrix product (2048 x 2048)
in the precision of `auto`. growth_last_phase: the time of `auto` in the last phase (100 classes) over that in this one.
"""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import conventional_step, measure
from cil_func import config as configuration
from cil_func import model, rng, tree
from cil_func.data.batches import Batch
from cil_func.experiment import Experiment
from cil_func.networks.network import Model
from cil_func.networks.outputs import Classes, Outputs, classes_of
from cil_func.runs import setup
from cil_func.training import runners, step_state
from cil_func.training.preprocess import DTYPES
from cil_func.training.step_state import TrainState

OLD, SEEN, ALL = 50, 60, 100


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="benchmark-step-") as folder:
        images = Path(folder) / "images"
        measure.write_images(images, classes=ALL, train=2, test=1, size=options.image_size)
        ready = {name: build(images, name, options) for name in ("float32", "auto")}
    device = ready["auto"].experiment.device
    conditions = measure.conditions(device.type, commit=options.commit)
    auto = ready["auto"].config.run.precision
    contenders = {
        "conventional": conventional(ready["auto"], options),
        "tuned": conventional(ready["auto"], options, tuned=True),
        **{name: ours(made, old=OLD, seen=SEEN) for name, made in ready.items()},
        "last": ours(ready["auto"], old=ALL - 10, seen=ALL),
    }
    seconds = interleaved(contenders, repeats=options.repeats, device=device)
    floor = floor_seconds(ready["auto"])
    figures = {
        "speedup_float32": measure.ratio(seconds["conventional"], seconds["float32"]),
        "speedup_auto": measure.ratio(seconds["conventional"], seconds["auto"]),
        "speedup_same_precision": measure.ratio(seconds["tuned"], seconds["auto"]),
        "growth_last_phase": measure.ratio(seconds["last"], seconds["auto"]),
        "floor_seconds_auto": floor,
        "floor_fraction_auto": floor / statistics.median(seconds["auto"]),
        **{f"seconds_{name}": statistics.median(values) for name, values in seconds.items()},
        **{f"seconds_best_{name}": min(values) for name, values in seconds.items()},
    }
    batch = ready["auto"].experiment.recipe(1, "").batch_size
    conditions |= {"precision_auto": auto, "batch_size": batch, "image_size": options.image_size}
    conditions |= {"backbone": options.backbone, "repeats": options.repeats, "set": options.set}
    rows = [["", "median ms", "best ms", "images/s"]]
    for name, values in seconds.items():
        middle = statistics.median(values)
        rows.append([name, 1e3 * middle, 1e3 * min(values), batch / middle])
    measure.table([*rows, ["matrix-product floor", 1e3 * floor, None, batch / floor]])
    for name in (*(key for key in figures if key.startswith("speedup")), "growth_last_phase", "floor_fraction_auto"):
        print(f"{name}: {figures[name]:.3f}")
    print(measure.write("step", figures, conditions, options.json))
    return 0


def parse(arguments: list[str] | None):
    """Returns the flags as a namespace. The sizes are for tests."""
    parser = measure.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=40, help="calls of each contender")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--backbone", default="resnet32")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="overrides ours")
    options = parser.parse_args(arguments)
    if both := [each for each in options.set if each.startswith(("optim.batch_size", "model.backbone", "data.image"))]:
        parser.error(f"--set {both[0]} would change one side alone; use --batch-size, --backbone or --image-size")
    measure.refuse_replacing(parser, options, changed_by=("image_size", "batch_size", "backbone", "set"))
    return options


def build(images: Path, precision: str, options) -> setup.Setup:
    """Returns the setup of this package's side, as a run would build it.

    images: the folder of the images. precision: the value of run.precision. options: the flags.
    """
    settings = [
        "data.name=image_folder", f'data.path="{images}"', f"data.image_size={options.image_size}",
        f"model.backbone={options.backbone}", f"optim.batch_size={options.batch_size}", "optim.norm_batch=0",
        "method.kd_combination=sum", "method.kd_weight=2", f"run.precision={precision}",
    ]  # fmt: skip
    return setup.build(configuration.load("cifar", [*settings, *options.set]))


def ours(ready: setup.Setup, *, old: int, seen: int) -> Callable[[], None]:
    """Returns a function that takes one step of a phase with a teacher: the teacher's outputs, then the step.

    ready: this package's side. old, seen: how many classes are old, and how many are seen. Each call trains further,
    always on the same batch.
    """
    made, recipe = ready.experiment, ready.experiment.recipe(1, "")
    given = phase(ready, 0, old=old, seen=seen)
    steps = (runners.CapturedSteps if made.captured else runners.EagerSteps)(
        recipe.step, given.train_state, given.classes
    )
    return lambda: steps(given.teach(given.batch.images), given.batch, given.rate)


class Phase(NamedTuple):
    """What the steps of a phase with a teacher need. teach: (images) -> the teacher's outputs."""

    train_state: TrainState
    teach: Callable[[torch.Tensor], Outputs]
    batch: Batch
    classes: Classes
    rate: torch.Tensor


def phase(ready: setup.Setup, key: int, *, old: int, seen: int) -> Phase:
    """Returns the start of a phase: a model and a teacher with random weights, drawn by `key`, and a random batch.

    ready: this package's side. old, seen: how many classes are old, and how many are seen.
    """
    made, recipe = ready.experiment, ready.experiment.recipe(1, "")
    rows = recipe.padded_to or recipe.batch_size  # of this process
    images, labels = batch(rows, made.train_images.shape[0], seen, made.device)
    sizes = [old, seen - old, made.num_classes - seen]
    before, classes = (classes_of(sizes, phase, device=made.device) for phase in (0, 1))
    # A run gives the teacher large chunks. A single batch that is filled up to such a chunk would take far longer.
    teach = replace(made.forward, fill=False).teacher(drawn(made, 2 * key + 1), before)
    train_state = step_state.start(recipe.stage, recipe.optimiser, *drawn(made, 2 * key))
    rate = torch.tensor(recipe.rate(0), dtype=made.dtype, device=made.device)
    return Phase(train_state, teach, Batch(images, labels), classes, rate)


def drawn(made: Experiment, key: int) -> Model:
    """Returns a model of all classes of an experiment with random weights, on its device. key: the seed."""
    return Model(*tree.cast(tuple(made.network.init(key, made.num_classes)), dtype=made.dtype, device=made.device))


def conventional(ready: setup.Setup, options, *, tuned: bool = False) -> Callable[[], object]:
    """Returns a function that takes one step of the conventional trainer, on pixels that are floats already.

    ready: this package's side, for device, preprocessing and precision. options: the flags.
    tuned: with channels_last, and with bfloat16 autocast if this package computes in bfloat16.
    """
    depth = int(options.backbone.removeprefix("resnet"))
    device = ready.experiment.device
    net, teacher = (conventional_step.Net(depth, classes).to(device) for classes in (SEEN, OLD))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    autocast = tuned and compute_dtype(ready) == torch.bfloat16
    train = conventional_step.make_step(net, teacher.eval(), optimiser, autocast=autocast, channels_last=tuned)
    images, labels = batch(options.batch_size, options.image_size, SEEN, device)
    layout = torch.channels_last if tuned else torch.contiguous_format
    pixels = ready.experiment.preprocess(images, torch.float32).contiguous(memory_format=layout)

    def run() -> torch.Tensor:
        # This package makes cuDNN use the same algorithm each time; the conventional trainer must not pay for that.
        with torch.backends.cudnn.flags(enabled=True, benchmark=tuned, deterministic=False):
            return train(pixels, labels)

    return run


def batch(size: int, side: int, seen: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns random (images uint8 (size, side, side, 3), labels (size,) of the classes 0 to seen - 1), on the device.

    The same arguments give the same batch.
    """
    generator = rng.generator(0)
    images = torch.randint(0, 256, (size, side, side, 3), generator=generator, dtype=torch.uint8)
    return images.to(device), torch.randint(0, seen, (size,), generator=generator).to(device)


def interleaved(
    contenders: dict[str, Callable], *, repeats: int, device: torch.device, warmup: int = 3
) -> dict[str, list[float]]:
    """Returns {contender: seconds of each call}. All contenders are called in turn, in another order in each round.

    contenders: {name: function without arguments}. repeats: how many calls of each count; warmup: how many come before
    them. device: a GPU is waited for after each call.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    shuffle = random.Random(0)
    for repeat in range(-warmup, repeats):
        for name in shuffle.sample(list(contenders), len(contenders)):
            clock = time.perf_counter()
            contenders[name]()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - clock)
    return seconds


def compute_dtype(ready: setup.Setup) -> torch.dtype:
    """Returns the dtype in which the convolutions of a setup compute."""
    return DTYPES[ready.config.run.precision][1]


def floor_seconds(ready: setup.Setup) -> float:
    """Returns the seconds of a step's multiply-adds at the best rate of a matrix product, in the step's precision.

    The student's backward pass counts as two forward passes, and the teacher needs one.
    """
    device = ready.experiment.device
    a, b = (torch.randn(2048, 2048, device=device).to(compute_dtype(ready)) for _ in range(2))
    calls = 50 if device.type == "cuda" else 1  # a GPU is waited for once for all of them
    seconds = min(interleaved({"mm": lambda: [a @ b for _ in range(calls)]}, repeats=15, device=device)["mm"])
    rate = 2 * 2048**3 * calls / seconds
    return 4 * forward_flops(ready) / rate


def forward_flops(ready: setup.Setup) -> float:
    """Returns the floating-point operations of the forward pass of one batch, counted by torch on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    made = ready.experiment
    params, state = tree.cast(model.init(0, made.network.name, made.num_classes), device="meta")
    shape = (made.recipe(1, "").batch_size, 3, *made.train_images.shape)
    with FlopCounterMode(display=False) as counter:
        model.apply(params, state, torch.empty(shape, device="meta"), train=False)
    return counter.get_total_flops()


if __name__ == "__main__":
    sys.exit(main())
