"""Are two seeds faster in one process or in two? `python -m benchmarks.seeds [--rounds R] [--steps N] [--json PATH]`.

The same training steps of WA with a teacher, as in `benchmarks.step`, for two seeds, of which each has its own weights,
in three ways, in turn and each time in new processes:

    together   one process with all threads; one step is `torch.vmap` of the step over both train states, compiled
    in turn    one process with all threads; the compiled step of one seed, then that of the other
    apart      two processes that share the threads, each with the compiled step of one seed

The teachers' outputs are computed before. together_over_apart and in_turn_over_apart: the seconds in which both seeds
take a step, over those of two processes, medians of the paired ratios of the rounds; below 1 one process is faster.
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

WAYS = {"together": 1, "in_turn": 1, "apart": 2}  # and their processes
_REPOSITORY = Path(__file__).parents[1]


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if options.child:
        return child(options)
    with tempfile.TemporaryDirectory(prefix="benchmark-seeds-") as scratch:
        folder = Path(scratch)
        measure.write_images(folder / "images", classes=100, train=2, test=1, size=options.image_size)
        conditions = measure.conditions(measure.device(), commit=options.commit)
        found: dict[str, list[float]] = {way: [] for way in WAYS}
        for index in range(options.rounds):
            for way in WAYS if index % 2 == 0 else reversed(WAYS):
                found[way].append(seconds_of(way, folder / f"{way}-{index}", options))
    figures = {f"{way}_over_apart": measure.ratio(found[way], found["apart"]) for way in ("together", "in_turn")}
    figures |= {f"seconds_{way}": sorted(values)[len(values) // 2] for way, values in found.items()}
    kept = ("rounds", "steps", "threads", "backbone", "image_size", "batch_size", "precision", "eager", "set")
    conditions |= {key: getattr(options, key) for key in kept}
    measure.table([("figure", "value"), *figures.items()])
    print(measure.write("seeds", figures, conditions, options.json))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = measure.parser(__doc__)
    cores = measure.cores()
    parser.add_argument("--rounds", type=int, default=3, help="of all three ways")
    parser.add_argument("--steps", type=int, default=20, help="of each seed that are timed in a round")
    parser.add_argument("--threads", type=int, default=max(2, cores), help="of all processes together")
    parser.add_argument("--backbone", default="resnet32")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="overrides the setup")
    parser.add_argument("--child", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    changes = ("backbone", "image_size", "batch_size", "precision", "eager", "set")
    measure.refuse_replacing(parser, options, changed_by=() if options.child else changes)
    return options


def seconds_of(way: str, folder: Path, options: argparse.Namespace) -> float:
    """Returns the seconds in which both seeds take one step, measured in new processes.

    way: a key of WAYS. folder: for what the processes tell each other, made here, beside the images and the compiler's
    cache. options: the flags. Raises RuntimeError if a process fails.
    """
    folder.mkdir()
    names = ("rounds", "steps", "threads", "backbone", "image_size", "batch_size", "precision")
    words = [word for name in names for word in (f"--{name.replace('_', '-')}", str(getattr(options, name)))]
    words += [word for setting in options.set for word in ("--set", setting)]
    words += ["--eager"] if options.eager else []
    own = {"OMP_NUM_THREADS": str(max(1, options.threads // WAYS[way]))}
    own |= {"TORCHINDUCTOR_CACHE_DIR": str(folder.parent / "inductor")}
    files = [folder / f"{index}.json" for index in range(WAYS[way])]
    command = [sys.executable, "-m", "benchmarks.seeds", "--way", way, *words, "--child"]
    children = [subprocess.Popen([*command, str(file)], env=os.environ | own, cwd=_REPOSITORY) for file in files]
    while None in (statuses := [each.poll() for each in children]) and not any(statuses):
        time.sleep(0.1)
    if any(statuses):
        for each in children:
            each.kill()  # else the other one would wait for it
        raise RuntimeError(f"seeds: a process of {way} ended with status {next(filter(None, statuses))}")
    return max(json.loads(file.read_text(encoding="utf-8")) for file in files)


def child(options: argparse.Namespace) -> int:
    """Takes the steps in this process and writes the seconds of one into the file `options.child`. Returns 0."""
    import torch

    from benchmarks import step
    from cil_func import tree

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    options.set = [f"run.threads={torch.get_num_threads()}", "run.compile=false", *options.set]
    ready = step.build(options.child.parents[1] / "images", options.precision, options)
    function = ready.experiment.recipe(1, "").step
    seeds = [step.phase(ready, seed, old=step.OLD, seen=step.SEEN) for seed in range(2 // WAYS[options.way])]
    if options.way == "together":
        function = torch.vmap(function, in_dims=(0, 0, 0, None, None))
    if not options.eager:
        function = torch.compile(function, fullgraph=True, dynamic=False)
    given = [[seed.train_state, seed.teach(seed.batch.images), seed.batch] for seed in seeds]
    if options.way == "together":
        given = [tree.map(lambda *leaves: torch.stack(leaves), *given)]
    classes, rate = seeds[0].classes, seeds[0].rate

    def take() -> None:
        for arguments in given:
            arguments[0], _ = function(*arguments, classes, rate)
        if ready.experiment.device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        take()
    wait_for_others(options.child, WAYS[options.way])
    clock = time.perf_counter()
    for _ in range(options.steps):
        take()
    options.child.write_text(json.dumps((time.perf_counter() - clock) / options.steps), encoding="utf-8")
    return 0


def wait_for_others(file: Path, count: int) -> None:
    """Returns when `count` processes have called this with files of one folder."""
    file.with_suffix(".there").touch()
    while len([*file.parent.glob("*.there")]) < count:
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main())
