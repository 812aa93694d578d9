"""Starts a small run as real processes in folders of its own, and tells whether two runs are the same.

For `benchmarks.reliability` and the tests. It measures nothing by itself.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETTINGS = (  # of the small run, three phases on the digits
    "data.increment=4", "optim.epochs=1", "optim.batch_size=64", "optim.norm_batch=16", "memory.size=50",
    "run.threads=1", "run.timeout_seconds=20", "checkpoint.every_seconds=0.2",
)  # fmt: skip
BORDERS = 34  # how often that run may be saved: before 9, 10 and 6 steps, and three times at the end of each phase
SYNCS = 50  # how often that run syncs or renames a file, at least


class RealRuns:
    """Starts the small run again and again, each time in a new directory below `folder`.

    seed: of `random`, from which callers draw. flags: of train.py, in place of those of the small run. Each method
    takes the number of processes: 0 means one process without a launcher, 1 or more are started by torchrun.
    """

    def __init__(self, folder: Path, seed: int, flags: Sequence[str] = ()):
        self.folder, self.random, self._numbers = folder, random.Random(seed), 0
        self.flags = flags or as_flags(SETTINGS)
        self._undisturbed: dict[int, tuple[Path, float]] = {}

    def new_directory(self) -> Path:
        """Returns the path of a run directory that doesn't exist yet."""
        self._numbers += 1
        return self.folder / f"{self._numbers:04d}" / "run"

    def undisturbed(self, count: int) -> tuple[Path, float]:
        """Returns (directory, seconds) of a run to which nothing happened. It is run once for each `count`."""
        if count not in self._undisturbed:
            directory, clock = self.new_directory(), time.monotonic()
            done = self.run_to_end(directory, count)
            if done.returncode:
                raise RuntimeError(f"the undisturbed run failed: {done.stderr}")
            self._undisturbed[count] = (directory, time.monotonic() - clock)
        return self._undisturbed[count]

    def start(self, directory: Path, count: int, *, fault: dict | None = None, flags: tuple = ()) -> subprocess.Popen:
        """Starts the run's command. Returns its process.

        count: of processes, see the class. fault: what `train_with_fault` is to do, None for nothing. flags: further
        ones for torchrun.
        """
        directory.parent.mkdir(parents=True, exist_ok=True)
        script = ["train.py"] if fault is None else ["-m", "benchmarks.reliability_helpers.train_with_fault"]
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}", *flags] if count else []
        own = {"OMP_NUM_THREADS": "1", "FAULT": json.dumps(fault)}
        streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        words = [sys.executable, *launcher, *script, "--out", str(directory), *self.flags]
        return subprocess.Popen(words, cwd=ROOT, env=os.environ | own, start_new_session=True, **streams)

    def start_and_wait(self, count: int, moment: float) -> tuple[Path, subprocess.Popen]:
        """Starts a run and waits `moment` seconds. Returns (its directory, its process), which is still at work.

        If the run ends before, another one is started and given half the time.
        """
        directory = self.new_directory()
        process = self.start(directory, count)
        time.sleep(moment)
        if process.poll() is None and status(directory)["state"] != "finished":
            return directory, process
        process.communicate()
        return self.start_and_wait(count, moment / 2)

    def run_to_end(self, directory: Path, count: int, **settings) -> subprocess.CompletedProcess:
        """Starts the run's command, with the settings of `start`, and waits for its end."""
        process = self.start(directory, count, **settings)
        _, error = process.communicate(timeout=300)
        return subprocess.CompletedProcess(process.args, process.returncode, None, error)

    def resume_and_compare(self, directory: Path, count: int) -> str:
        """Runs the same command again in a directory. Returns "" if it ends with the bits of the undisturbed run.

        Otherwise it returns what is wrong.
        """
        done = self.run_to_end(directory, count)
        if done.returncode:
            return f"it ended with status {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"
        return difference(directory, self.undisturbed(count)[0])


def as_flags(settings: Sequence[str]) -> list[str]:
    """Returns settings "table.key=value" as flags of train.py."""
    return [word for setting in settings for word in ("--set", setting)]


def status(directory: Path) -> dict:
    """Returns the content of status.json; {"state": "none"} if there is none yet."""
    path = directory / "status.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"state": "none"}


def difference(directory: Path, other: Path) -> str:
    """Returns in what two finished runs differ, weights, results or exemplars; "" if they are the same."""
    if (directory / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes():
        return "other weights"
    if results(directory) != results(other):
        return "other results"
    return "" if exemplars(directory) == exemplars(other) else "other exemplars"


def results(directory: Path) -> dict:
    """Returns the content of results.json without its times."""
    found = json.loads((directory / "results.json").read_text(encoding="utf-8"))
    return found | {"phases": [row | {"seconds": None} for row in found["phases"]]}


def exemplars(directory: Path) -> dict[str, list[int]]:
    """Returns the rows of the exemplars in a run's newest checkpoint, by class."""
    from cil_func.runs import checkpoints

    found, _ = checkpoints.newest(directory / "checkpoints")
    return {label: rows.tolist() for label, rows in found.tree["exemplars"].items()}


def live_process(directory: Path) -> str:
    """Returns "" if no process works in the directory any more, else which one does."""
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if str(directory).encode() in words:
            return f"process {name} is still there"
    return ""
