"""How long until the first step is compiled, and how many graphs does a run need? `python -m benchmarks.compile`.

Runs the cifar preset on a few generated images, three phases of one epoch, twice, in new processes: with an empty
inductor cache (cold) and with the cache of the first process (warm). Measures the seconds of the first step of phase 0,
of the first step of phase 1 (with a teacher and its forward pass), and of the features for phase 0's selection;
cold_seconds and warm_seconds are their sums. graphs: how many graphs dynamo made in the whole run.
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

SIZES = (50, 10, 10)  # classes of the three phases
IMAGES = {"cpu": 10, "cuda": 50}  # of each class: phase 0 has to fill a batch of the forward pass, larger on a GPU
PARTS = ("step", "step_with_teacher", "forward")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.child:
        return child(options)
    with tempfile.TemporaryDirectory(prefix="benchmark-compile-") as scratch:
        folder = Path(scratch)
        config = load(folder / "images", options)
        images = options.images or IMAGES[measure.device_of(config)]
        measure.write_images(
            folder / "images", classes=sum(SIZES), train=images, test=images, size=options.image_size
        )
        conditions = measure.conditions(measure.device_of(config), commit=options.commit)
        found = {}
        for name in ("cold", "warm"):
            found[name] = spawn(config, folder, options)
            if found[name] is None:
                print(f"benchmarks.compile: the {name} process failed", file=sys.stderr)
                return 1
    figures = {f"{name}_seconds": sum(result["seconds"].values()) for name, result in found.items()}
    figures["graphs"] = found["cold"]["graphs"]
    for name, result in found.items():
        figures |= {f"{name}_{part}_seconds": result["seconds"][part] for part in PARTS}
    measure.table([("figure", "value"), *figures.items()])
    conditions["config"] = configuration.to_dict(config)
    conditions["config"]["data"]["path"] = ""  # not this machine's
    conditions |= {"precision": found["cold"]["precision"], "backend": options.backend}
    print(measure.write("compile", figures, conditions, options.json))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = measure.parser(__doc__)
    parser.add_argument("--backbone", default="resnet32")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--images", type=int, default=0, help="a class; 0: 10, on a GPU 50")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="overrides the setup")
    parser.add_argument("--backend", default="", help="torch.compile's, in place of the one that is used")
    parser.add_argument("--child", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    changes = ("backbone", "image_size", "batch_size", "images", "set", "backend")
    measure.refuse_replacing(parser, options, changed_by=() if options.child else changes)
    return options


def load(images: Path, options: argparse.Namespace) -> configuration.Config:
    """Returns the configuration: the cifar preset on the generated images, in three phases of one epoch.

    images: the folder of the images. options: the flags.
    """
    overrides = [
        "data.name=image_folder",
        f"data.path={json.dumps(str(images))}",
        f"data.image_size={options.image_size}",
        f"data.initial_increment={SIZES[0]}",
        f"data.increment={SIZES[1]}",
        f"model.backbone={options.backbone}",
        f"optim.batch_size={options.batch_size}",
        "optim.norm_batch=0",
        "optim.epochs=1",
        "optim.first_phase={}",
    ]
    return configuration.load("cifar", [*overrides, *options.set])


def spawn(config: configuration.Config, folder: Path, options: argparse.Namespace) -> dict | None:
    """Returns what a new process measures, {"seconds": {part: seconds}, "graphs", "precision"}; None if it fails.

    config: what it runs. folder: for the files that are exchanged, and inductor's cache, which stays there for the next
    process. options: the flags.
    """
    (folder / "config.toml").write_text(configuration.to_toml(config), encoding="utf-8")
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.compile", "--child", str(folder), "--backend", options.backend],
        env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")},
        cwd=Path(__file__).parents[1],
    )
    if finished.returncode or not result.is_file():
        return None
    return json.loads(result.read_text(encoding="utf-8"))


def child(options: argparse.Namespace) -> int:
    """Trains the three phases and writes {"seconds", "graphs", "precision"} into the folder `options.child`.

    Returns the exit status. "seconds" has a number for each of PARTS.
    """
    import torch
    from torch._dynamo.utils import counters

    from cil_func import experiment
    from cil_func.runs import setup

    if options.backend:
        original = torch.compile
        torch.compile = lambda function, **settings: original(function, **settings, backend=options.backend)
    ready = setup.build(configuration.load(str(options.child / "config.toml")))
    started, first = {}, {}

    def emit(event: dict) -> None:
        if event["event"] == "phase_start":
            started[event["phase"]] = time.perf_counter()
        elif "phase" in event:  # the first event after the start, which comes after the first step
            first.setdefault(event["phase"], time.perf_counter() - started[event["phase"]])

    _, results = experiment.run(ready.experiment, emit=emit, save=lambda results: None)
    seconds = (first[0], first[1], results["phases"][0]["seconds"]["select"])
    result = {
        "seconds": dict(zip(PARTS, seconds, strict=True)),
        "graphs": counters["stats"]["unique_graphs"],
        "precision": ready.config.run.precision,
    }
    (options.child / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
