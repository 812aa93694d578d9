"""What does saving cost? `python -m benchmarks.checkpoint [--folder FOLDER]`: milliseconds, by part.

Saves checkpoints as in the middle of a phase with a teacher: parameters, statistics, momentum, and the finished model
of the phase before; of ResNet-32 and of a ViT-B (figures that end in _vit). Nothing is trained. FOLDER: where to save,
since disks differ, and one in memory has nothing to sync.

    loop        what the training waits for: the check that all numbers are finite, the copy to the CPU (from a GPU,
                all tensors are copied), and handing it to the thread
    background  from then on until the thread has written the checkpoint to the disk
    processor   the processor time of both, which the training lacks
    first       background of a phase's first two saves, which write the finished model too
    load        reading the newest checkpoint

percent_of_interval: loop_seconds in percent of the default of [checkpoint] every_seconds, in which one checkpoint is
saved. percent_of_processors: processor_seconds in percent of the time of all cores in that interval. memory_megabytes:
by how much saving made the process larger at most. A run also keeps the older state until it is written.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import measure
from cil_func import model, optim, tree
from cil_func.config import schema
from cil_func.networks.network import Model
from cil_func.parallel.processes import Processes
from cil_func.runs import checkpoints
from cil_func.runs.saver import CheckpointSaver
from cil_func.runs.signals import Signals
from cil_func.training import stage
from cil_func.training.epochs import Position
from cil_func.training.progress import Progress, StageProgress
from cil_func.training.step_state import Health, TrainState, nothing_measured

CLASSES = 100
PARTS = ("loop", "background", "processor", "first", "load")


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    device = measure.device()
    conditions = measure.conditions(device, commit=options.commit) | {"repeats": options.repeats}
    every = schema.Checkpoint().every_seconds
    conditions |= {"every_seconds": every, "backbones": [options.backbone, options.large]}
    figures, rows = {}, [["", "", "median ms", "worst ms"]]
    for backbone, end in ((options.backbone, ""), (options.large, "_vit")):
        with tempfile.TemporaryDirectory(prefix="benchmark-checkpoint-", dir=options.folder) as folder:
            conditions["file_system"] = file_system(Path(folder))
            seconds, sizes = measured(backbone, torch.device(device), Path(folder), repeats=options.repeats)
        found = {f"{name}_seconds": statistics.median(values) for name, values in seconds.items()} | sizes
        found["loop_seconds_worst"] = max(seconds["loop"])
        found["percent_of_interval"] = 100 * found["loop_seconds"] / every
        found["percent_of_processors"] = 100 * found["processor_seconds"] / (every * conditions["cores"])
        figures |= {f"{name}{end}": value for name, value in found.items()}
        rows += [[backbone, name, 1e3 * statistics.median(some), 1e3 * max(some)] for name, some in seconds.items()]
    measure.table(rows)
    print(f"on {conditions['file_system']}; percent of {every:.0f} s that the training waits: ", end="")
    print(", ".join(f"{figures[f'percent_of_interval{end}']:.3f}" for end in ("", "_vit")))
    print(measure.write("checkpoint", figures, conditions, options.json))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Returns the flags as a namespace. Those of the backbones are for tests."""
    parser = measure.parser(__doc__)
    parser.add_argument("--folder", type=Path, help="on the disk that is measured; default: for temporary files")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--backbone", default="resnet32")
    parser.add_argument("--large", default="timm:vit_base_patch16_224")
    options = parser.parse_args(arguments)
    measure.refuse_replacing(parser, options, changed_by=("backbone", "large"))
    return options


def states(backbone: str, device: torch.device) -> Iterator[Progress]:
    """Yields the progress of a run at one step after another, without end, each with new tensors like a step's.

    backbone: its name. device: where the tensors are. The run is in phase 1; nothing is trained.
    """
    params, state = tree.cast(model.init(0, backbone, CLASSES), device=device)
    learned = Model(*tree.map(torch.clone, (params, state)))
    momentum = optim.sgd(momentum=0.9).init(params)
    rows = tuple({"phase": phase, "top1": 100 / 3} for phase in range(10))
    exemplars = {label: torch.arange(20) for label in range(50)}
    step = 0
    while True:
        params, momentum = tree.map(lambda leaf: leaf + 1, (params, momentum))
        health = Health(*(torch.tensor(number, device=device) for number in (step, -1, -1)))
        train_state = TrainState(params, state, momentum, health)
        trained = StageProgress(train_state, nothing_measured(train_state), Position(0, step))
        yield Progress(1, learned, exemplars, rows, trained)
        step += 1


def measured(
    backbone: str, device: torch.device, folder: Path, *, repeats: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Saves `repeats` checkpoints in a folder after two that count as first, and loads the newest one twice.

    Returns ({part of PARTS: seconds of each time}, {"megabytes": of a checkpoint, "memory_megabytes": by which the
    process grew}), in 10^6 bytes. backbone, device: of the model that is saved.
    """
    seconds: dict[str, list[float]] = {name: [] for name in PARTS}
    grown, runs = 0.0, states(backbone, device)
    with CheckpointSaver(folder, Processes(), Signals(), every_seconds=0.0) as saver:
        for number, progress in zip(range(repeats + 2), runs, strict=False):

            def make(progress: Progress = progress) -> Progress:
                trained = progress.training
                if device.type == "cuda":  # as a captured step does
                    trained = replace(trained, train_state=tree.map(torch.clone, trained.train_state))
                stage.refuse_infinite(trained.train_state, progress.phase, trained.position)
                return replace(progress, training=trained)

            before, processor = _memory(anew=True), time.process_time()
            taken, _ = timed(lambda: saver.at_border(make, False))
            waited, _ = timed(saver.wait)
            grown = max(grown, _memory() - before)
            seconds["first" if number < 2 else "background"].append(waited)
            if number >= 2:
                seconds["loop"].append(taken)
                seconds["processor"].append(time.process_time() - processor)
    written = sorted(path.stat().st_size for path in folder.iterdir())
    for _ in range(2):
        seconds["load"].append(timed(lambda: checkpoints.newest(folder))[0])
    return seconds, {"megabytes": sum(written) / 2e6, "memory_megabytes": grown}


def timed(call: Callable) -> tuple[float, object]:
    """Calls a function without arguments. Returns (seconds, its result)."""
    clock = time.perf_counter()
    result = call()
    return time.perf_counter() - clock, result


def _memory(*, anew: bool = False) -> float:
    """Returns the most memory that the process has had, in megabytes of 10^6 bytes; 0 on other systems than Linux.

    anew: whether to begin anew: then it is what the process has now, and later calls return the most since this one.
    """
    try:
        if anew:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6
    except (OSError, StopIteration):
        return 0.0


def file_system(folder: Path) -> str:
    """Returns the type of the folder's file system as `stat` calls it; "unknown" if there is no such command."""
    command = ["stat", "--file-system", "--format=%T", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
