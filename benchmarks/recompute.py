"""What does `run.recompute` (activation checkpointing) save, and what does it cost? `python -m benchmarks.recompute`.

Takes whole training steps without compilation, each way in a new process, for a ResNet-32 on CIFAR's size and timm's
ResNet-18 and ViT-tiny on photographs' size. Measures the most memory that the process had above what it had before the
first step (parameters, gradients and the optimiser's update are in it), and the best seconds of a later step. planned:
what --dry-run says that the activations need.
"""

import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks import measure

CASES = {"resnet32": (32, 256), "timm:resnet18": (224, 16), "timm:vit_tiny_patch16_224": (224, 16)}  # side, images
QUICK = {"resnet20": (8, 4)}


def main(arguments: list[str] | None = None) -> int:
    parser = measure.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="steps after the first one")
    parser.add_argument("--quick", action="store_true", help="one small network, for tests")
    options = parser.parse_args(arguments)
    measure.refuse_replacing(parser, options, changed_by=("quick",))
    # memory that is freed goes back to the system at once, or the peaks would be those of the allocator
    os.environ |= {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    conditions = measure.conditions("cpu", commit=options.commit)
    conditions |= {"threads": 1, "precision": "float32", "repeats": options.repeats}
    figures, rows = {}, [("", "peak MB", "planned MB", "s a step")]
    for name, (side, images) in (QUICK if options.quick else CASES).items():
        for way, recompute in (("kept", False), ("recomputed", True)):
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                found = process.submit(measured, name, side, images, recompute, options.repeats).result()
            rows.append((f"{name}, {images} of {side}x{side}, {way}", found[0] / 1e6, found[1] / 1e6, found[2]))
            parts = zip(("peak_bytes", "planned_bytes", "seconds"), found, strict=True)
            figures |= {f"{part}_{name}_{way}": value for part, value in parts}
        for part in ("peak_bytes", "seconds"):
            figures[f"ratio_{part}_{name}"] = figures[f"{part}_{name}_recomputed"] / figures[f"{part}_{name}_kept"]
    measure.table(rows)
    print(measure.write("recompute", figures, conditions, options.json))
    return 0


def measured(name: str, side: int, images: int, recompute: bool, repeats: int) -> tuple[int, int, float]:
    """Returns (peak bytes, planned bytes, seconds of a step) of this process."""
    import torch  # here and below: late, in the new process

    from benchmarks import step
    from cil_func import config as configuration
    from cil_func.data.batches import Batch
    from cil_func.networks.outputs import classes_of
    from cil_func.runs import activations, setup
    from cil_func.training import runners, step_state

    with tempfile.TemporaryDirectory(prefix="benchmark-recompute-") as folder:
        measure.write_images(Path(folder), classes=2, train=2, test=1, size=side)
        ready = setup.build(configuration.load("cifar", [
            "data.name=image_folder", f'data.path="{folder}"', f"data.image_size={side}",
            "data.initial_increment=2", "data.increment=2", f"model.backbone={name}",
            f"optim.batch_size={images}", "optim.norm_batch=0", "method.name=finetune", "run.precision=float32",
            "run.compile=false", "run.device=cpu", f"run.recompute={str(recompute).lower()}",
        ]))  # fmt: skip
    made, recipe = ready.experiment, ready.experiment.recipe(0, "")
    batch = Batch(*step.batch(images, side, 2, made.device))
    train_state = step_state.start(recipe.stage, recipe.optimiser, *step.drawn(made, 0))
    steps = runners.EagerSteps(recipe.step, train_state, classes_of([2], 0))
    before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(1 + repeats):
        begun = time.perf_counter()
        steps(None, batch, torch.tensor(0.01))
        seconds.append(time.perf_counter() - begun)
    peak = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    return peak, activations.activation_bytes(ready), min(seconds[1:])


if __name__ == "__main__":
    raise SystemExit(main())
