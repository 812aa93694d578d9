"""Writes and reads status.json: what a run is doing, or how it ended."""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cil_func.errors import DiskError
from cil_func.runs import files

RENEW_SECONDS = 30.0
_END_SECONDS = 5.0  # how long the last record waits for the thread to finish its own


class Status:
    """Writes `directory`/status.json for one process.

    clock: returns UNIX seconds. renew_seconds: how often a thread rewrites the file while the run goes on.

    The keys of the file: "state" is running, finished, stopped or failed. "exit_code" is the process's own, null while
    it runs; torchrun answers 1 for every failure. "message" is for people. "started" and "updated" are UNIX seconds.
    "pid", "host" and "process_started" (the kernel's time, null if unknown) name the process that wrote the file.
    Each method raises DiskError if the file can't be written.
    """

    def __init__(
        self, directory: str | Path, *, clock: Callable[[], float] = time.time, renew_seconds: float = RENEW_SECONDS
    ) -> None:
        self._path, self._clock, self._renew_seconds = Path(directory) / "status.json", clock, renew_seconds
        self._started = round(clock(), 3)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def running(self) -> None:
        """Writes that the run goes on. Until the end, a thread writes the file again every `renew_seconds`."""
        self._write("running", None, "")
        self._thread = threading.Thread(target=self._renew, name="status", daemon=True)
        self._thread.start()

    def finished(self, message: str = "") -> None:
        """Writes that the run is complete. message: for people."""
        self._end("finished", 0, message)

    def stopped(self, code: int, message: str) -> None:
        """Writes that a person or scheduler stopped the run by a signal. code: 129, 130 or 143; message: for people."""
        self._end("stopped", code, message)

    def failed(self, code: int, message: str) -> None:
        """Writes that the run ended with an error. code: the exit status; message: the line that was printed."""
        self._end("failed", code, message)

    def _renew(self) -> None:
        while not self._ended.wait(self._renew_seconds):
            with suppress(DiskError):  # the training writes too, and fails by itself if the disk is full
                self._write("running", None, "")

    def _end(self, state: str, code: int, message: str) -> None:
        self._ended.set()
        if self._thread:  # else it might write "running" after this
            self._thread.join(_END_SECONDS)
        self._write(state, code, message)

    def _write(self, state: str, code: int | None, message: str) -> None:
        times = {"started": self._started, "updated": round(self._clock(), 3)}
        process = {"pid": os.getpid(), "host": socket.gethostname(), "process_started": _started(os.getpid())}
        files.write_json(self._path, {"state": state, "exit_code": code, "message": message} | times | process)


def read(directory: str | Path) -> dict[str, Any]:
    """Returns the content of `directory`/status.json, with the keys that `Status` lists; {} if missing or damaged.

    It is a message for people: whether and where a run goes on is decided by its checkpoints.
    """
    return files.read_object(Path(directory) / "status.json")


def lives(record: dict[str, Any]) -> bool:
    """Returns whether the process that wrote a record is certainly alive on this machine.

    record: from `read`. False if it ran on another machine, if it isn't known when it began, or if a later process has
    its number now.
    """
    started = record.get("process_started")
    return started is not None and record.get("host") == socket.gethostname() and _started(record["pid"]) == started


def describe(record: dict[str, Any], *, clock: Callable[[], float] = time.time) -> str:
    """Returns a record in words: its state, which process wrote it and how long ago; "" for an empty record.

    record: from `read`. clock: returns UNIX seconds.
    """
    if not record:
        return ""
    who = f"process {record.get('pid', '-')} on {record.get('host', '-')}"
    updated = record.get("updated")
    when = f"{_duration(clock() - updated)} ago" if isinstance(updated, (int, float)) else "at an unknown time"
    return f'status.json says "{record.get("state", "-")}", written by {who} {when}'


def _duration(seconds: float) -> str:
    """Returns seconds in a unit that suits them: "12 s", "5 min", "3 h", "2 days"."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _started(pid: int) -> int | None:
    """Returns when a live process began, in the kernel's ticks since the machine started; None if unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])  # Z, X: dead, and nobody has waited for it yet
    except (OSError, ValueError, IndexError):
        return None
