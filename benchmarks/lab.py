"""Where runs are disturbed: a small run of real processes, in folders of its own, and whether two runs are the same.

For the tests and `benchmarks.reliability`; it measures nothing by itself.
"""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS = (
    "data.increment=4", "optim.epochs=1", "optim.batch_size=64", "optim.norm_batch=16", "memory.size=50",
    "run.threads=1", "run.timeout_seconds=20", "checkpoint.every_seconds=0.2",
)  # fmt: skip
BORDERS = 34  # of that run: 9, 10 and 6 steps, and three at the end of each phase
SYNCS = 50  # calls that sync or rename a file, at least, in that run


class Lab:
    """Runs the small run in folders of its own, and knows how one ends that nothing happens to."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.draw, self._numbers = folder, random.Random(seed), 0
        self._undisturbed: dict[int, tuple[Path, float]] = {}

    def new(self) -> Path:
        """A run directory that isn't there yet."""
        self._numbers += 1
        return self.folder / f"{self._numbers:04d}" / "run"

    def undisturbed(self, count: int) -> tuple[Path, float]:
        """(directory, seconds) of the run by `count` processes; 0: by one without a launcher."""
        if count not in self._undisturbed:
            directory, clock = self.new(), time.monotonic()
            done = self.finish(directory, count)
            if done.returncode:
                raise RuntimeError(f"the undisturbed run failed: {done.stderr}")
            self._undisturbed[count] = (directory, time.monotonic() - clock)
        return self._undisturbed[count]

    def start(self, directory: Path, count: int, *, fault: dict | None = None, flags: tuple = ()) -> subprocess.Popen:
        """Starts the command, by torchrun for 1 process or more; with a fault by `benchmarks.faulty`."""
        directory.parent.mkdir(exist_ok=True)
        settings = [word for setting in SETTINGS for word in ("--set", setting)]
        script = ["train.py"] if fault is None else ["-m", "benchmarks.faulty"]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}", *flags] if count else []
        own = {"OMP_NUM_THREADS": "1", "FAULT": json.dumps(fault)}
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        words = [sys.executable, *launcher, *script, "--out", str(directory), *settings]
        return subprocess.Popen(words, cwd=ROOT, env=os.environ | own, start_new_session=True, **streams)

    def caught(self, count: int, moment: float) -> tuple[Path, subprocess.Popen]:
        """A run at work, `moment` seconds after its start; one that ends sooner gives way to another, in half of it."""
        directory = self.new()
        process = self.start(directory, count)
        time.sleep(moment)
        if process.poll() is None and status(directory)["state"] != "finished":
            return directory, process
        process.communicate()
        return self.caught(count, moment / 2)

    def finish(self, directory: Path, count: int, **settings) -> subprocess.CompletedProcess:
        """Runs the command to its end."""
        process = self.start(directory, count, **settings)
        _, error = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, None, error)

    def goes_on(self, directory: Path, count: int) -> str:
        """What is wrong after the same command went on in the directory; "" for the bits of the undisturbed run."""
        done = self.finish(directory, count)
        if done.returncode:
            return f"it ended with status {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"
        return different(directory, self.undisturbed(count)[0])


def status(directory: Path) -> dict:
    """status.json; the state "none" before there is one."""
    path = directory / "status.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"state": "none"}


def different(directory: Path, other: Path) -> str:
    """In what two finished runs differ; "" for nothing."""
    if (directory / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes():
        return "other weights"
    if results(directory) != results(other):
        return "other results"
    return "" if exemplars(directory) == exemplars(other) else "other exemplars"


def results(directory: Path) -> dict:
    """results.json without its times."""
    found = json.loads((directory / "results.json").read_text(encoding="utf-8"))
    return found | {"phases": [row | {"seconds": None} for row in found["phases"]]}


def exemplars(directory: Path) -> dict[str, list[int]]:
    from cil_func.runs import checkpoints

    found, _ = checkpoints.newest(directory / "checkpoints")
    return {label: rows.tolist() for label, rows in found.tree["exemplars"].items()}


def alive(directory: Path) -> str:
    """A process that still works in the directory, in words; "" for none."""
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if str(directory).encode() in words:
            return f"process {name} is still there"
    return ""
