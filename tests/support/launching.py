"""Real processes: train.py by torchrun or alone, and what they leave behind.

`start` starts a command as people do. `fork` runs the same command in a process forked from one that has imported
everything, which saves each process many seconds, and without the report at a run's end, which takes as long again.
"""

import json
import multiprocessing
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from importlib import import_module
from multiprocessing import forkserver
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_STARTING = threading.Lock()
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([
    "launching", "torch._dynamo", "torch.distributed.run", "cil_func.runs.run", "reference", "sklearn.cluster",
])  # fmt: skip


def command(count: int, *arguments: str, script: str = "train.py", flags: tuple[str, ...] = ()) -> list[str]:
    """Returns a command: torchrun with `count` processes and its flags; for 0, one process without a launcher."""
    if count == 0:
        return [sys.executable, script, *arguments]
    elsewhere = any(flag.startswith(("--nnodes", "--master_port")) for flag in flags)
    flags = (f"--nproc_per_node={count}", *flags, *(() if elsewhere else ("--standalone",)))
    return [sys.executable, "-m", "torch.distributed.run", *flags, script, *arguments]


def start(words: list[str], *, env: dict[str, str] | None = None, **settings) -> subprocess.Popen:
    """Starts a command in the repository, each process with one thread."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(words, cwd=ROOT, env=_environment(env), **(streams | settings))


def fork(words: list[str], *, env: dict[str, str] | None = None) -> "Forked":
    """Starts a command of `command` in a forked process. torchrun forks its processes too, by its own options."""
    if words[1:3] == ["-m", "torch.distributed.run"]:
        rest = words[3:]
        if "-m" in rest:  # a path is needed
            at = rest.index("-m")
            rest[at : at + 2] = [f"{rest[at + 1].replace('.', '/')}.py"]
        words = [*words[:3], "--run_path", "--start_method=fork", *rest]
    ensure_forks()
    return Forked(words, _environment(env))


def run(words: list[str], *, timeout: float = 300, by=start, **settings) -> subprocess.CompletedProcess:
    """Runs a command to its end. by: how it is started, `start` or `fork`."""
    process = by(words, **settings)
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


class Forked:
    """A forked process that leads a session of its own, with the methods of subprocess.Popen that tests use."""

    def __init__(self, words: list[str], env: dict[str, str]):
        self.args = words
        self._files = [tempfile.NamedTemporaryFile("r") for _ in range(2)]  # noqa: SIM115 - they are read at the end
        self._process = _FORKS.Process(target=_forked, args=(words, env, *(file.name for file in self._files)))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, sent: int) -> None:
        os.kill(self._process.pid, sent)

    def kill(self) -> None:
        """Kills all processes of the session."""
        for pid in self.alive():
            os.kill(pid, signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end. Returns (stdout, stderr). After the timeout it kills all and raises TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise subprocess.TimeoutExpired("forked", timeout)
        return tuple(file.read() for file in self._files)

    def alive(self) -> list[int]:
        """Returns the live processes of the session."""
        return [int(name) for name in filter(str.isdecimal, os.listdir("/proc")) if _session(name) == self._process.pid]


def ensure_forks() -> None:
    """Starts the process from which the others are forked, if it doesn't run yet."""
    with _STARTING, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", _environment(None)["PYTHONPATH"])  # it doesn't get ours otherwise
        forkserver.ensure_running()


def _environment(env: dict[str, str] | None) -> dict[str, str]:
    paths = os.pathsep.join(map(str, (ROOT, Path(__file__).parent)))
    own = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": paths}
    return os.environ | own | (env or {})


def _forked(words: list[str], env: dict[str, str], out: str, err: str) -> None:
    """Runs the command, in the forked process."""
    os.setsid()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ |= env
    for number, path in enumerate((os.devnull, out, err)):
        os.dup2(os.open(path, os.O_RDWR | os.O_APPEND), number)
    import_module("cil_func.runs.report_files").write_report = _write_no_report
    if words[1] == "-m":
        sys.argv = words[2:]
        sys.exit(import_module(words[2]).main())
    sys.argv = words[1:]
    runpy.run_path(words[1], run_name="__main__")


def _write_no_report(directory: Path, warn) -> list[Path]:
    return []


def _session(pid: str) -> int | None:
    try:
        return os.getsid(int(pid))
    except ProcessLookupError:
        return None


def free_port() -> int:
    """Returns a free port for a process that is started soon, one of a thousand that this pytest worker has.

    They are below those that the system gives out by itself, so nothing takes the port before that process does.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for port in random.sample(range(1000), 1000):
        with socket.socket() as holder, suppress(OSError):
            holder.bind(("127.0.0.1", 20000 + 1000 * (worker % 12) + port))
            return holder.getsockname()[1]
    raise RuntimeError("all ports are in use")


def results(directory: Path) -> dict:
    """Returns results.json without what differs from run to run: times and the machine."""
    found = json.loads((directory / "results.json").read_text())
    found.pop("environment")
    return found | {"phases": [row | {"seconds": None} for row in found["phases"]]}


def status(directory: Path) -> dict:
    return json.loads((directory / "status.json").read_text())
