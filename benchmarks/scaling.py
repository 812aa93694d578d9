"""What do more processes cost and bring? `python -m benchmarks.scaling [--rounds R] [--steps N] [--json PATH]`.

Measures training steps of WA with a teacher, ResNet-32, 128 images of 32x32 in two norm groups: by one process with all
threads, and by two processes that share the same threads, in turn and each time in new processes. scaling_2: images/s
of two processes over those of one, the median of paired ratios. collectives_a_step and bytes_a_step are counted where
they are sent.

A model estimates n GPUs. A step takes the time of the norm groups of 128 images that the busiest GPU has, and then
2 (n - 1) (latency + bytes / (n bandwidth)) seconds for the sum in a ring, without overlap. The results file has its
assumptions. The time of 128 images on one GPU is that of --gpu-seconds (with --json), else an estimate.
model_strong_N: the speedup of a batch of 512 by N GPUs over one. model_weak_N: images/s with 128 images for each of N
GPUs, over one GPU.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import measure
from cil_func import config as configuration

GPUS = (1, 2, 4, 8, 16, 32, 64)
ASSUMED = {
    "gpu_seconds_128": 1.1e-3,  # a captured step of 128 images on an H100: an estimate, not measured
    "latency_seconds": 1.0e-5,  # of one hop of the ring
    "bandwidth_bytes_per_second": 2.5e10,  # of the slowest link: 200 Gbit/s between machines
}


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.child:
        return child(options)
    with tempfile.TemporaryDirectory(prefix="benchmark-scaling-") as scratch:
        folder = Path(scratch)
        measure.write_images(folder / "images", classes=100, train=2, test=1, size=options.image_size)
        (folder / "config.toml").write_text(configuration.to_toml(load(folder / "images", options)), encoding="utf-8")
        conditions = measure.conditions(measure.device(), commit=options.commit)
        conditions |= {"rounds": options.rounds, "steps": options.steps, "threads_in_all": options.threads}
        conditions |= {key: getattr(options, key) for key in ("backbone", "image_size", "batch_size", "set")}
        found = {1: [], 2: []}
        for index in range(options.rounds):
            for count in (1, 2) if index % 2 == 0 else (2, 1):
                found[count].append(spawn(count, folder, options))
    figures = summary(found) | model(found[2][0]["bytes"], options.gpu_seconds or ASSUMED["gpu_seconds_128"])
    conditions["model"] = ASSUMED | {"gpu_seconds_128": options.gpu_seconds or ASSUMED["gpu_seconds_128"]}
    conditions["model_compute"] = "given" if options.gpu_seconds else "estimated, no GPU was measured"
    conditions["precision"] = found[1][0]["precision"]
    measure.table([("figure", "value"), *figures.items()])
    print(measure.write("scaling", figures, conditions, options.json))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = measure.parser(__doc__)
    cores = measure.cores()
    parser.add_argument("--rounds", type=int, default=5, help="of one and of two processes")
    parser.add_argument("--steps", type=int, default=40, help="that are timed in a round")
    parser.add_argument("--threads", type=int, default=max(2, cores), help="of all processes together")
    parser.add_argument("--gpu-seconds", type=float, default=0.0, help="of 128 images, for the model")
    parser.add_argument("--backbone", default="resnet32")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="overrides the setup")
    parser.add_argument("--child", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    changes = ("gpu_seconds", "backbone", "image_size", "batch_size", "set")
    measure.refuse_replacing(parser, options, changed_by=() if options.child else changes)
    return options


def load(images: Path, options: argparse.Namespace) -> configuration.Config:
    """Returns the configuration: the cifar preset with two norm groups a batch. images: the folder of the images."""
    overrides = [
        "data.name=image_folder", f"data.path={json.dumps(str(images))}", f"data.image_size={options.image_size}",
        f"model.backbone={options.backbone}", f"optim.batch_size={options.batch_size}",
        f"optim.norm_batch={options.batch_size // 2}",
    ]  # fmt: skip
    return configuration.load("cifar", [*overrides, *options.set])


def spawn(count: int, folder: Path, options: argparse.Namespace) -> dict:
    """Runs `count` new processes together. Returns what they measure, see `child`. Raises RuntimeError if they fail.

    folder: for the files that are exchanged, and inductor's cache. options: the flags.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}", "-m"]
    words = ["benchmarks.scaling", "--child", str(folder), "--steps", str(options.steps)]
    threads = str(max(1, options.threads // count))
    own = {"OMP_NUM_THREADS": threads, "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    done = subprocess.run([*launcher, *words], env=os.environ | own, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise RuntimeError(f"scaling: {count} processes ended with status {done.returncode}")
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))


def child(options: argparse.Namespace) -> int:
    """Builds the setup as a run would and takes the steps, in this process. Returns the exit status.

    Rank 0 writes {"images_per_second" of all processes, "collectives" and "bytes" a step, "precision"} into the folder
    `options.child`.
    """
    import torch

    from benchmarks import step
    from cil_func.parallel.joining import join
    from cil_func.parallel.launch import launched
    from cil_func.runs import setup
    from cil_func.training import runners

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    config = configuration.load(str(options.child / "config.toml"))
    config = config.model_copy(update={"run": config.run.model_copy(update={"threads": torch.get_num_threads()})})
    with join(launched(), timeout_seconds=300, on_loss=print) as processes:
        ready = setup.build(config, processes)
        take = step.ours(ready, old=step.OLD, seen=step.SEEN)
        take()
        calls = runners.WARM_UP + 1 if ready.experiment.captured else 1  # of the step, so far; a replay calls nothing
        counted = processes.collectives / calls, processes.numbers / calls * ready.experiment.dtype.itemsize
        for _ in range(2):
            take()
        waited(processes)
        clock = time.perf_counter()
        for _ in range(options.steps):
            take()
        waited(processes)
        seconds = time.perf_counter() - clock
        result = {
            "images_per_second": options.steps * ready.experiment.recipe(1, "").batch_size / seconds,
            "collectives": counted[0],
            "bytes": counted[1],
            "precision": ready.config.run.precision,
        }
        if processes.first:
            (options.child / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return 0


def waited(processes) -> None:
    """Waits until all processes and their GPUs have finished their work."""
    import torch

    if processes.device.type == "cuda":
        torch.cuda.synchronize()
    processes.signals_now(0)


def summary(found: dict[int, list[dict]]) -> dict[str, float]:
    """Returns the measured figures. found: {number of processes, 1 and 2: what each round measured, see `child`}."""
    rates = {count: [entry["images_per_second"] for entry in rounds] for count, rounds in found.items()}
    return {
        "scaling_2": measure.ratio(rates[2], rates[1]),
        "images_per_second_1": sorted(rates[1])[len(rates[1]) // 2],
        "images_per_second_2": sorted(rates[2])[len(rates[2]) // 2],
        "collectives_a_step": found[2][0]["collectives"],
        "bytes_a_step": found[2][0]["bytes"],
    }


def model(size: float, seconds_128: float) -> dict[str, float]:
    """Returns the estimated speedups over one GPU, {"model_strong_N": ..., "model_weak_N": ...} for each N of GPUS.

    size: bytes of an all-reduce. seconds_128: of a step of 128 images on one GPU. The module's docstring has the
    formula.
    """

    def reduce(gpus: int) -> float:
        latency, bandwidth = ASSUMED["latency_seconds"], ASSUMED["bandwidth_bytes_per_second"]
        return 2 * (gpus - 1) * (latency + size / gpus / bandwidth)

    groups = 4
    strong = {n: groups * seconds_128 / (-(-groups // min(n, groups)) * seconds_128 + reduce(n)) for n in GPUS}
    weak = {n: n * seconds_128 / (seconds_128 + reduce(n)) for n in GPUS}
    return {f"model_strong_{n}": value for n, value in strong.items()} | {
        f"model_weak_{n}": value for n, value in weak.items()
    }


if __name__ == "__main__":
    sys.exit(main())
