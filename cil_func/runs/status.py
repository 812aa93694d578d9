"""status.json: what a run does, or how it ended; and what another command can say of it."""

import json
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
_END_SECONDS = 5.0  # how long the last word waits for a thread that is writing


class Status:
    """Keeps `directory`/status.json for one process.

    torchrun answers 1 for every failure, so "exit_code" here is the real one (null while the run goes on).
    "started" and "updated" are UNIX seconds. "pid", "host" and "process_started" (as the kernel counts it; null where
    it doesn't say) name the process that wrote it. Each method raises DiskError as `files.write_bytes` does.
    """

    def __init__(
        self, directory: str | Path, *, clock: Callable[[], float] = time.time, renew_seconds: float = RENEW_SECONDS
    ) -> None:
        self._path, self._clock, self._renew_seconds = Path(directory) / "status.json", clock, renew_seconds
        self._started = round(clock(), 3)
        self._ended, self._thread = threading.Event(), None

    def running(self) -> None:
        """The run goes on. A thread renews "updated", and the file if it was deleted, until the run ends."""
        self._write("running", None, "")
        self._thread = threading.Thread(target=self._renew, name="status", daemon=True)
        self._thread.start()

    def finished(self, message: str = "") -> None:
        """The run is complete."""
        self._end("finished", 0, message)

    def stopped(self, code: int, message: str) -> None:
        """A person or the machine's scheduler stopped the run (130, 143)."""
        self._end("stopped", code, message)

    def failed(self, code: int, message: str) -> None:
        """The run ended with an error; `message` is the line that the person got."""
        self._end("failed", code, message)

    def _renew(self) -> None:
        while not self._ended.wait(self._renew_seconds):
            with suppress(DiskError):  # whoever trains finds out by writing more than this
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
    """What status.json says; {} where it is missing or damaged, for it is a message and no run goes on by it."""
    try:
        record = json.loads((Path(directory) / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def lives(record: dict[str, Any]) -> bool:
    """Whether the process that wrote the record certainly lives: it is of this machine, and no later one of its pid."""
    started = record.get("process_started")
    return started is not None and record.get("host") == socket.gethostname() and _started(record["pid"]) == started


def describe(record: dict[str, Any], *, clock: Callable[[], float] = time.time) -> str:
    """The record in words: "running", by which process, and when it said so last; "" for an empty record."""
    if not record:
        return ""
    who = f"process {record.get('pid', '-')} on {record.get('host', '-')}"
    updated = record.get("updated")
    when = f"{_duration(clock() - updated)} ago" if isinstance(updated, (int, float)) else "at an unknown time"
    return f'status.json says "{record.get("state", "-")}", written by {who} {when}'


def _duration(seconds: float) -> str:
    """Seconds in the unit that a person would take: "12 s", "5 min", "3 h", "2 days"."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _started(pid: int) -> int | None:
    """When a live process began, in the kernel's ticks since the machine did; None where nobody knows."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else int(fields[19])  # a dead one that nobody has waited for
    except (OSError, ValueError, IndexError):
        return None
