"""Trains the runs of a sweep, a few processes at a time, each an ordinary run of train.py."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cil_func.errors import CilError, InUseError, NonFiniteError
from cil_func.runs import files, signals, status
from cil_func.runs.lock import lock_directory
from cil_func.training import gpus

_POLL_SECONDS = 0.2
_PATIENCE = 2.0  # seconds between two looks at a run that another process trains


@dataclass(frozen=True, eq=False)
class Job:
    """A run to be trained. name: of the run, and of its directory inside `sweep`. arguments: of train.py."""

    name: str
    arguments: list[str]
    sweep: Path

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.sweep / self.name

    @property
    def log(self) -> Path:
        """The file that gets what the run prints."""
        return self.sweep / "logs" / f"{self.name}.log"


class Interrupted(Exception):
    """A signal came; all processes have been told, and have ended. number: of the signal."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def train(jobs: Sequence[Job], *, at_once: int, threads: int, tell: Callable[[str], None]) -> dict[str, int]:
    """Runs all jobs and returns {name: exit status}. A job that fails doesn't stop the others.

    at_once: how many processes at a time. threads: of each, where its configuration leaves that to torch; 0: torch's
    own choice. Of several GPUs each process is shown one, that which the fewest have. tell: called with a line for a
    person when a job begins and ends.
    A run that another process is training is waited for, behind the others: that process may have been started by a
    command that was killed. If it ends without an end of the run, the run is gone on with.
    SIGINT, SIGTERM and SIGHUP end the running processes, which save what they have; then Interrupted is raised.
    Raises DiskError if a log can't be written, after the running processes have saved what they have.
    """
    waiting, later = list(jobs), dict.fromkeys(jobs, 0.0)  # later: when a job may be looked at again
    running: dict[Job, subprocess.Popen] = {}
    taken: dict[Job, str] = {}  # the GPU of each job
    visible = gpus.visible() if at_once > 1 else []
    ended: dict[str, int] = {}
    caught: list[int] = []
    before = {each: signal.signal(each, lambda number, frame: caught.append(number)) for each in signals.handled()}

    def put_off(job: Job) -> None:
        if not later[job]:
            tell(f"{job.name}: another process trains it; waiting")
        later[job] = time.monotonic() + _PATIENCE

    try:
        while (waiting or running) and not caught:
            for job in [each for each in waiting if later[each] <= time.monotonic()]:
                if len(running) == at_once or caught:
                    break
                if _is_taken(job.directory):
                    put_off(job)
                    continue
                waiting.remove(job)
                if later[job] and (code := _end_elsewhere(job.directory)) is not None:
                    ended[job.name] = code
                    tell(f"{job.name}: another process has trained it")
                    continue
                tell(f"{job.name}: begins ({len(ended) + len(running) + 1} of {len(jobs)})")
                taken[job] = min(visible, key=[taken[each] for each in running].count, default="")
                running[job] = _start(job, threads, taken[job])
            for job, process in list(running.items()):
                if process.poll() is not None:
                    code = running.pop(job).returncode
                    if code == InUseError.exit_status:  # another process was faster
                        waiting.append(job)
                        put_off(job)
                        continue
                    ended[job.name] = code
                    tell(f"{job.name}: {_how(code, job.log)}")
            time.sleep(_POLL_SECONDS)
        if caught:
            raise Interrupted(caught[0])
    finally:  # what still runs here was interrupted, or the next one couldn't be started
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        for process in running.values():
            process.wait()
        for each, handler in before.items():
            signal.signal(each, handler)
    return ended


def _start(job: Job, threads: int, gpu: str = "") -> subprocess.Popen:
    """Starts a job in a session of its own, so that a terminal's Ctrl-C reaches it through this process alone.

    gpu: the only one that it is shown; "": it sees what this process sees.
    """
    files.make_directory(job.log.parent)
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    environment |= {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
    with files.disk_errors(job.log):
        log = job.log.open("ab")
    with log:
        return subprocess.Popen(
            [sys.executable, "-m", "cil_func", "train", *job.arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
        )  # fmt: skip


def _is_taken(directory: Path) -> bool:
    """Returns whether another process has the lock of a run directory."""
    if not directory.is_dir():
        return False
    try:
        with lock_directory(directory):
            return False
    except InUseError:
        return True
    except CilError:  # it can't be locked, which the run will say
        return False


def _end_elsewhere(directory: Path) -> int | None:
    """Returns the exit status of a run that nobody trains if it would be the same again; None: it can go on."""
    code = status.read(directory).get("exit_code")
    return code if code in (0, NonFiniteError.exit_status) else None


def _how(code: int, log: Path) -> str:
    """Returns how a job has ended, with the last line that it printed if it is not finished. code: its exit status."""
    if code == 0:
        return "finished"
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it printed nothing"]
    except OSError:  # somebody deleted the log
        lines = ["what it printed can't be read"]
    how = "stopped" if code - 128 in signals.NAMES else "failed"  # a signal sent to that process alone
    return f"{how} with exit status {code}: {lines[-1].strip()}; see {log}"
