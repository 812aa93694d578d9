"""Real processes: train.py by torchrun or alone, and what they leave behind."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command(count: int, *arguments: str, script: str = "train.py", flags: tuple[str, ...] = ()) -> list[str]:
    """torchrun with `count` processes on a free port; one process without a launcher for 0."""
    if count == 0:
        return [sys.executable, script, *arguments]
    flags = (f"--nproc_per_node={count}", f"--master_port={free_port()}", *flags)
    return [sys.executable, "-m", "torch.distributed.run", *flags, script, *arguments]


def start(words: list[str], **settings) -> subprocess.Popen:
    """Starts it in the repository, each process with one thread."""
    paths = os.pathsep.join(map(str, (ROOT, Path(__file__).parent)))
    own = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": paths}
    environment = os.environ | own | settings.pop("env", {})
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(words, cwd=ROOT, env=environment, **(streams | settings))


def run(words: list[str], *, timeout: float = 300, **settings) -> subprocess.CompletedProcess:
    """Runs it to its end."""
    process = start(words, **settings)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def free_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return holder.getsockname()[1]


def results(directory: Path) -> dict:
    """results.json without what differs from run to run: times and the machine."""
    found = json.loads((directory / "results.json").read_text())
    found.pop("environment")
    return found | {"phases": [row | {"seconds": None} for row in found["phases"]]}


def status(directory: Path) -> dict:
    return json.loads((directory / "status.json").read_text())
