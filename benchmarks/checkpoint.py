"""What does saving cost? `python -m benchmarks.checkpoint [--folder FOLDER]`: milliseconds, by part.

The checkpoint is that of ResNet-32 in the middle of a phase with a teacher: parameters, statistics, momentum, and the
last phase's finished model. Each repeat saves it beside an earlier one, which is read and checked before what is older
is deleted, and loads it back. percent_of_interval: save_seconds in percent of the default of [checkpoint]
every_seconds; training waits for that long. FOLDER: where, for disks differ, and one in memory syncs for nothing.

    pack    tensors to the CPU and into one string of bytes, and their hash
    hash    SHA-256 of the bytes, which is a part of pack
    write   the two files, synced and renamed
    rest    of save: the check of the earlier checkpoint, and deleting
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import measure
from cil_func import checkpoint, config_schema, events, model, optim, packing, tree

CLASSES = 100


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    conditions = measure.conditions(device, commit=options.commit)
    state = tree.cast(train_state(options.backbone), device=device)
    with tempfile.TemporaryDirectory(prefix="benchmark-checkpoint-", dir=options.folder) as folder:
        conditions |= {"file_system": file_system(Path(folder)), "repeats": options.repeats}
        seconds, size = measured(state, Path(folder), repeats=options.repeats)
    conditions |= {"backbone": options.backbone, "every_seconds": config_schema.Checkpoint().every_seconds}
    figures = {f"{name}_seconds": statistics.median(values) for name, values in seconds.items()}
    figures["save_seconds_worst"] = max(seconds["save"])
    figures["megabytes"] = size / 1e6
    figures["percent_of_interval"] = 100 * figures["save_seconds"] / conditions["every_seconds"]
    rows = [["", "median ms", "worst ms"]]
    rows += [[name, 1e3 * statistics.median(values), 1e3 * max(values)] for name, values in seconds.items()]
    measure.table(rows)
    print(f"{figures['megabytes']:.1f} MB on {conditions['file_system']}; ", end="")
    print(f"percent_of_interval: {figures['percent_of_interval']:.3f} of {conditions['every_seconds']:.0f} s")
    print(measure.write("checkpoint", figures, conditions, options.json))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The flags; the backbone is for tests."""
    parser = measure.parser(__doc__)
    parser.add_argument("--folder", type=Path, help="on the disk that is measured; default: for temporary files")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--backbone", default="resnet32")
    return parser.parse_args(arguments)


def train_state(backbone: str) -> tree.Tree:
    """All that a phase with a teacher needs to go on."""
    params, state = model.init(0, backbone, CLASSES)
    learned = dict(zip(("params", "state"), model.init(1, backbone, CLASSES), strict=True))
    momentum = optim.sgd(momentum=0.9).init(params)
    return {"params": params, "state": state, "opt_state": momentum, "learned": learned}


def measured(state: tree.Tree, folder: Path, *, repeats: int) -> tuple[dict[str, list[float]], int]:
    """(seconds of each part in each repeat, bytes of a checkpoint)."""
    seconds: dict[str, list[float]] = {name: [] for name in ("save", "pack", "hash", "write", "rest", "load")}
    record = {"rows": [{"phase": phase, "top1": 100 / 3} for phase in range(10)]}
    for number in range(-2, repeats):  # the first two warm up, and make the earlier ones
        taken = {}
        save = lambda: checkpoint.save(folder / "checkpoints", state, record, number=number + 2)  # noqa: B023, E731
        taken["save"], _ = timed(save)
        taken["load"], _ = timed(lambda: checkpoint.newest(folder / "checkpoints"))
        taken["pack"], (manifest, data) = timed(lambda: packing.pack(state, record, number=number + 2))  # noqa: B023
        taken["hash"], _ = timed(lambda: packing.sha256(data))  # noqa: B023
        # To names that are new, as a save's are: replacing a file costs more.
        names = [(folder / f"{number}.{end}", part) for end, part in (("data", data), ("json", manifest))]
        taken["write"], _ = timed(lambda: [events.write_bytes(*name) for name in names])  # noqa: B023
        for path, _ in names:
            path.unlink()
        taken["rest"] = max(0.0, taken["save"] - taken["pack"] - taken["write"])
        if number >= 0:
            for name, values in seconds.items():
                values.append(taken[name])
    return seconds, len(manifest) + len(data)


def timed(call: Callable) -> tuple[float, object]:
    """(seconds, what it returned)"""
    clock = time.perf_counter()
    result = call()
    return time.perf_counter() - clock, result


def file_system(folder: Path) -> str:
    """Its type, as `stat` calls it; "unknown" where there is no such command."""
    command = ["stat", "--file-system", "--format=%T", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
