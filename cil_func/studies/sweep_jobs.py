"""Trains the runs of a sweep, a few processes at a time, each an ordinary run of train.py."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cil_func.runs import files

_POLL_SECONDS = 0.2


@dataclass(frozen=True, eq=False)
class Job:
    """A run to be trained. name: of the run. arguments: of train.py. log: the file that gets what it prints."""

    name: str
    arguments: list[str]
    log: Path


class Interrupted(Exception):
    """A signal came; all processes have been told, and have ended. number: of the signal."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def train(jobs: Sequence[Job], *, at_once: int, threads: int, tell: Callable[[str], None]) -> dict[str, int]:
    """Runs all jobs and returns {name: exit status}. A job that fails doesn't stop the others.

    at_once: how many processes at a time. threads: of each, where its configuration leaves that to torch; 0: torch's
    own choice. tell: called with a line for a person when a job begins and ends.
    SIGINT and SIGTERM are passed on to the running processes, which save what they have; then Interrupted is raised.
    Raises DiskError if a log can't be written, after the running processes have saved what they have.
    """
    waiting = list(jobs)
    running: dict[Job, subprocess.Popen] = {}
    ended: dict[str, int] = {}
    caught: list[int] = []
    before = {each: signal.signal(each, lambda number, frame: caught.append(number)) for each in _STOPS}
    try:
        while (waiting or running) and not caught:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                tell(f"{job.name}: begins ({len(ended) + len(running) + 1} of {len(jobs)})")
                running[job] = _start(job, threads)
            for job, process in list(running.items()):
                if process.poll() is not None:
                    ended[job.name] = running.pop(job).returncode
                    tell(f"{job.name}: {_how(ended[job.name], job.log)}")
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


_STOPS = (signal.SIGINT, signal.SIGTERM)


def _start(job: Job, threads: int) -> subprocess.Popen:
    """Starts a job in a session of its own, so that a terminal's Ctrl-C reaches it through this process alone."""
    files.make_directory(job.log.parent)
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    with files.disk_errors(job.log):
        log = job.log.open("ab")
    with log:
        return subprocess.Popen(
            [sys.executable, "-m", "cil_func", "train", *job.arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
        )  # fmt: skip


def _how(status: int, log: Path) -> str:
    """Returns how a job has ended, with the last line that it printed if it is not finished."""
    if status == 0:
        return "finished"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it printed nothing"]
    how = "stopped" if status - 128 in _STOPS else "failed"  # a signal sent to that process alone
    return f"{how} with exit status {status}: {lines[-1].strip()}; see {log}"
