"""How long does a whole run take, ours and a conventional one? `python -m benchmarks.run [--epochs N] [--data FOLDER]`.

CIFAR-100, 50 classes and then 10 a phase, from the start of a process to its end: reading images, augmentation,
training, alignment, herding, evaluation and, on this package's side, compilation. Three processes run one after the
other with the same recipe and images: the conventional trainer (`benchmarks.conventional`), this package with an empty
inductor cache (cold), and this package with the cache that the run before has filled (warm). FOLDER: a folder of
images, whose record is run-epochsN-<device>.json; without it, images are generated, and the record is
run-generated-epochsN-<device>.json.

    --parts conventional,warm     leaves out the others ("tuned": the conventional trainer with channels_last and
                                  bfloat16 autocast); warm without cold fills its cache by a run of one epoch first
    --cache FOLDER                keeps the inductor cache there, so that warm finds it filled the next time
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import measure
from cil_func import config as configuration

PARTS = ("conventional", "tuned", "cold", "warm")
RECIPE = ("optim.batch_size=128", "optim.norm_batch=0", "method.kd_combination=sum", "method.kd_weight=2")
SECTIONS = ("start", "data", "train", "select", "evaluate")


class ChildError(RuntimeError):
    """A side has ended with an error, and has printed its own message."""


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.side:
        return child(options)
    with tempfile.TemporaryDirectory(prefix="benchmark-run-") as scratch:
        folder = Path(scratch)
        recipe = load(options, folder, epochs=options.epochs)
        conditions = measure.conditions(measure.device_of(recipe), commit=options.commit)
        conditions |= {"threads": _threads(recipe), "workers": options.workers}
        try:
            found = sides(options, recipe, folder)
        except ChildError as error:
            print(f"benchmarks.run: {error}", file=sys.stderr)
            return 1
    show(found)
    conditions["generated_images"] = not options.data
    conditions["config"] = configuration.to_dict(recipe)
    conditions["config"]["data"]["path"] = ""  # not this machine's
    conditions["precision"] = {part: result["precision"] for part, result in found.items()}
    name = f"run-epochs{options.epochs}" if options.data else f"run-generated-epochs{options.epochs}"
    print(measure.write(name, figures(found), conditions, options.json))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Returns the flags as a namespace. Those of child processes and of small tests are not listed in --help."""
    parser = measure.parser(__doc__)
    hidden = argparse.SUPPRESS
    parser.add_argument("--epochs", type=int, default=1, help="of every phase")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="train/<class>/*.png and test/<class>/*.png")
    listed = {"type": lambda text: text.split(","), "default": ["conventional", "cold", "warm"]}
    parser.add_argument("--parts", help=f"of {','.join(PARTS)}", **listed)
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="overrides the recipe")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="inductor's cache, kept; cold wants it empty")
    workers = min(8, measure.cores())
    parser.add_argument("--workers", type=int, default=workers, help="processes that load images, conventional side")
    parser.add_argument("--classes", type=int, default=100, help=hidden)  # of generated images
    parser.add_argument("--train-images", type=int, default=500, help=hidden)  # a class
    parser.add_argument("--test-images", type=int, default=100, help=hidden)
    parser.add_argument("--image-size", type=int, default=32, help=hidden)
    parser.add_argument("--side", choices=PARTS, help=hidden)  # this process is a child
    parser.add_argument("--config", help=hidden)
    parser.add_argument("--result", type=Path, help=hidden)
    parser.add_argument("--spawned", type=float, help=hidden)
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.parts) - set(PARTS)):
        parser.error(f"--parts {unknown[0]!r}; of {', '.join(PARTS)}")
    if "cold" in options.parts and options.cache and options.cache.is_dir() and any(options.cache.iterdir()):
        parser.error(f"--cache {options.cache} is not empty, and cold wants an empty one; leave cold out of --parts")
    changes = ("parts", "set", "workers", "classes", "train_images", "test_images", "image_size")
    if not options.side:
        measure.refuse_replacing(parser, options, changed_by=changes)
    return options


def load(options: argparse.Namespace, folder: Path, *, epochs: int) -> configuration.Config:
    """Returns the configuration: the cifar preset with RECIPE, on the images of --data.

    Without --data it generates images in `folder`, unless they are there already. epochs: of each phase.
    """
    images = options.data
    if images is None:
        images = folder / "images"
        if not images.is_dir():
            print("generating images", flush=True)
            counts = {"train": options.train_images, "test": options.test_images}
            measure.write_images(images, classes=options.classes, size=options.image_size, **counts)
    data = ["data.name=image_folder", f"data.path={json.dumps(str(images.resolve()))}"]
    data.append(f"data.image_size={options.image_size}")
    recipe = [*data, *RECIPE, f"optim.epochs={epochs}", "optim.first_phase={}"]
    return configuration.load("cifar", [*recipe, *options.set])


def sides(options: argparse.Namespace, recipe: configuration.Config, folder: Path) -> dict[str, dict]:
    """Runs each part of --parts in a process of its own. Returns {part: what it measured}, see `spawn`.

    recipe: the configuration of all of them. folder: for the files that are exchanged.
    """
    cache = options.cache or folder / "inductor"
    cache.mkdir(parents=True, exist_ok=True)
    if "warm" in options.parts and "cold" not in options.parts and not any(cache.iterdir()):
        print("filling the cache by a run of one epoch", flush=True)
        spawn("warm", load(options, folder, epochs=1), options, folder, cache)
    return {part: spawn(part, recipe, options, folder, cache) for part in PARTS if part in options.parts}


def spawn(part: str, recipe: configuration.Config, options: argparse.Namespace, folder: Path, cache: Path) -> dict:
    """Runs one side in a new process. Returns what it measures: `summary`, memory, and "wall", its seconds in all.

    part: of PARTS. recipe: the configuration. folder: for the files that are exchanged. cache: the folder of inductor's
    cache.
    Raises ChildError if the process fails.
    """
    config, result = folder / "config.toml", folder / f"{part}.json"
    config.write_text(configuration.to_toml(recipe), encoding="utf-8")
    threads = str(_threads(recipe))
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache), "OMP_NUM_THREADS": threads}
    command = [sys.executable, "-m", "benchmarks.run", "--side", part, "--config", str(config), "--result", str(result)]
    clock, spawned = time.perf_counter(), time.time()
    finished = subprocess.run(
        [*command, "--workers", str(options.workers), "--spawned", repr(spawned)],
        env=environment,
        cwd=Path(__file__).parents[1],
    )
    wall = time.perf_counter() - clock
    if finished.returncode or not result.is_file():
        raise ChildError(f"the {part} side ended with status {finished.returncode}")
    found = json.loads(result.read_text(encoding="utf-8")) | {"wall": wall}
    print(f"{part}: {wall:.1f} s", flush=True)
    return found


def child(options: argparse.Namespace) -> int:
    """Runs one side in this process: trains all phases and writes what it measures to --result.

    Returns the exit status.
    """
    side = conventional_side if options.side in ("conventional", "tuned") else our_side

    def emit(row: dict) -> None:
        took = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in row["seconds"].items())
        top1 = f"top-1 {row['top1']:.2f}, nearest mean {row['nme_top1']:.2f}"
        print(f"{options.side} phase {row['phase']}: {top1}, {took}", flush=True)

    config = configuration.load(options.config)
    found = side(config, options, emit)
    mib = 1024  # ru_maxrss is in KiB on Linux
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / mib
    found["peak_child_mib"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / mib
    import torch

    if measure.device_of(config) == "cuda":
        found["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
    options.result.write_text(json.dumps(found), encoding="utf-8")
    return 0


def conventional_side(config: configuration.Config, options: argparse.Namespace, emit) -> dict:
    """Runs the conventional trainer, for "tuned" with channels_last and autocast. Returns `summary` and "precision".

    emit: called with the results of each phase.
    """
    import torch

    from benchmarks import conventional
    from cil_func.data import sources

    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    start, clock = time.time() - options.spawned, time.perf_counter()
    data = sources.load(config.data.name, path=config.data.path, image_size=config.data.image_size)
    seconds = {"start": start, "data": time.perf_counter() - clock}
    tuned = options.side == "tuned"
    results = conventional.run(config, data, emit=emit, workers=options.workers, autocast=tuned, channels_last=tuned)
    return summary(results, seconds) | {"precision": "bfloat16 autocast" if tuned else "float32"}


def our_side(config: configuration.Config, options: argparse.Namespace, emit) -> dict:
    """Runs this package by its own highest-level calls. Returns `summary` and "precision".

    emit: called with the "phase_end" event of each phase.
    """
    from cil_func import experiment
    from cil_func.runs import setup

    start, clock = time.time() - options.spawned, time.perf_counter()
    ready = setup.build(config)
    seconds = {"start": start, "data": time.perf_counter() - clock}
    _, results = experiment.run(
        ready.experiment,
        emit=lambda event: emit(event) if event["event"] == "phase_end" else None,
        save=lambda results: None,
    )
    with contextlib.suppress(ImportError, AttributeError):  # not public; the figure is missing if it moves
        from torch._dynamo.utils import calculate_time_spent

        seconds["compile"] = calculate_time_spent().get("total_wall_time", 0.0)
    return summary(results, seconds) | {"precision": ready.config.run.precision}


def summary(results: dict, seconds: dict[str, float]) -> dict:
    """Returns what both sides report: accuracies of each phase, average and last accuracy, seconds by section.

    results: of all phases, as results.json has them. seconds: of the sections before the phases; those of the phases
    are added to it.
    """
    rows = results["phases"]
    for section in ("train", "select", "evaluate"):
        seconds[section] = sum(row["seconds"][section] for row in rows)
    return {
        "top1": [row["top1"] for row in rows],
        "nme_top1": [row["nme_top1"] for row in rows],
        "average": results["average_incremental_accuracy"],
        "last": results["last_accuracy"],
        "seconds": seconds,
    }


def figures(found: dict[str, dict]) -> dict[str, float]:
    """Returns the figures: speedup_*, and of each part its seconds (in all, by section), accuracies and memory.

    found: {part: what it measured}.
    """
    flat = {}
    for ours in ("warm", "cold"):
        for theirs, suffix in (("conventional", ""), ("tuned", "_over_tuned")):
            if ours in found and theirs in found:
                flat[f"speedup_{ours}{suffix}"] = measure.ratio([found[theirs]["wall"]], [found[ours]["wall"]])
    for part, result in found.items():
        flat[f"seconds_{part}"] = result["wall"]
        flat |= {f"seconds_{section}_{part}": value for section, value in result["seconds"].items()}
        flat |= {f"{key}_{part}": result[key] for key in ("average", "last")}
        for key in ("top1", "nme_top1"):
            flat |= {f"{key}_phase_{phase}_{part}": value for phase, value in enumerate(result[key])}
        flat |= {f"{key}_{part}": result[key] for key in result if key.startswith("peak_")}
    return flat


def show(found: dict[str, dict]) -> None:
    """Prints the table, with a column for each part. found: {part: what it measured}."""
    rows = [["", *found], ["seconds, spawn to exit", *(result["wall"] for result in found.values())]]
    for section in (*SECTIONS, "compile"):
        seconds = [result["seconds"].get(section) for result in found.values()]
        rows.append([f"  {section}" + (" (in train, select)" if section == "compile" else ""), *seconds])
    phases = len(next(iter(found.values()))["top1"])
    for phase in range(phases):
        rows.append([f"top-1, phase {phase}", *(result["top1"][phase] for result in found.values())])
    for key in ("average", "last"):
        rows.append([f"top-1, {key}", *(result[key] for result in found.values())])
    rows.append(["nearest mean, last phase", *(result["nme_top1"][-1] for result in found.values())])
    for key in ("peak_mib", "peak_child_mib", "peak_gpu_mib"):  # of the process, its largest child, the GPU
        rows.append([key, *(result.get(key) for result in found.values())])
    measure.table(rows)
    for name, value in figures(found).items():
        if name.startswith("speedup_"):
            print(f"{name}: {value:.2f}")


def _threads(recipe: configuration.Config) -> int:
    """Returns the number of threads of either side's main process."""
    own = os.environ.get("OMP_NUM_THREADS", "")
    return recipe.run.threads or (int(own) if own.isdecimal() else measure.cores())


if __name__ == "__main__":
    sys.exit(main())
