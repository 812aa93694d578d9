"""metrics.jsonl: writes and reads the events of a run, one line of JSON each.

An event is a dict with the key "event", which names its kind.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cil_func.errors import DiskError
from cil_func.runs import files

NOT_LOGGED = frozenset({"progress"})  # kinds of events that only the screen shows: there are several a second


class EventLog:
    """Appends events to a file, one line of strict JSON each, and adds the key "time" in UNIX seconds.

    path: the file, made if it is missing. clock: returns UNIX seconds.
    on_warning: called with a "warning" event if somebody else changed the file while the run went on: a deleted file is
    written again with all its lines, a file that was replaced or cut is appended to. The warning is logged too.

    A call with an event writes the line: it is in the file when the call returns. Events of the kinds in NOT_LOGGED are
    not written. A number that is not finite is written as null, so that the loss that ends a run doesn't end its log.
    If a killed process left an incomplete last line, opening the file cuts that line off.
    A context manager: it closes the file at the end.
    Raises DiskError if there is no folder or no space; then nothing of the event is left in the file.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Callable[[], float] = time.time,
        on_warning: Callable[[Mapping[str, Any]], object] = lambda event: None,
    ) -> None:
        self._clock, self._path, self._on_warning = clock, Path(path), on_warning
        with files.disk_errors(path):
            self._open()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Appends one event to the file; nothing if its kind is in NOT_LOGGED."""
        if event.get("event") not in NOT_LOGGED:
            self._restore()
            self._write(event)

    def size(self) -> int:
        """Returns the size of the file in bytes; `os.truncate` to this size removes all later events.

        Repairs the file first if somebody deleted, replaced or cut it, see the class.
        """
        self._restore()
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Closes the file. A second call does nothing."""
        with files.disk_errors(self._path):
            self._file.close()

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        _repair_last_line(self._path)
        # Unbuffered: bytes that couldn't be written must not be written later, when the file is closed.
        self._file = open(self._path, "a+b", buffering=0)  # noqa: SIM115 (closed by close)
        self._size = os.fstat(self._file.fileno()).st_size

    def _write(self, event: Mapping[str, Any]) -> None:
        plain = files.json_value({**event, "time": round(self._clock(), 3)}, "event", refuse=False)
        line = (json.dumps(plain, allow_nan=False, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        with files.disk_errors(self._path):
            try:
                while line:
                    line = line[self._file.write(line) :]
            except OSError:
                os.ftruncate(self._file.fileno(), self._size)
                raise
            self._size = os.fstat(self._file.fileno()).st_size

    def _restore(self) -> None:
        """Opens the file again if somebody deleted, replaced or cut it, and reports that in a "warning" event.

        A deleted file is written again with its old lines. Does nothing if the file is as it was.
        """
        with files.disk_errors(self._path):
            change = self._outside_change()
            if not change:
                return
            if change == "deleted":  # the file has lost its name, but its bytes can still be read
                files.write_bytes(self._path, os.pread(self._file.fileno(), self._size, 0))
            self._file.close()
            self._open()
        now = "it is written again" if change == "deleted" else "events are appended to what it is now"
        warning = {"event": "warning", "message": f"{self._path.name} was {change} while the run went on; {now}"}
        self._write(warning)
        self._on_warning(warning)

    def _outside_change(self) -> str:
        """Returns what somebody else did to the file: "deleted", "replaced", "cut short", or "" for nothing.

        Raises DiskError if the whole run directory is gone.
        """
        own = os.fstat(self._file.fileno())
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            if not self._path.parent.is_dir():
                raise DiskError(
                    f"{self._path.parent}: the run directory was deleted or moved while the run went on; "
                    "put it back, and the same command goes on"
                ) from None
            return "deleted"
        if not os.path.samestat(own, there):
            return "replaced"
        return "cut short" if own.st_size < self._size else ""


def read(path: str | Path) -> list[dict[str, Any]]:
    """Returns the events of the log at `path`, in order. An incomplete last line, left by a killed process, is ignored.

    Raises OSError if there is no such file. Raises ValueError, which names the line, if another line is broken.
    """
    lines = Path(path).read_bytes().split(b"\n")
    found = []
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        event = _parse(line)
        if event is not None:
            found.append(event)
        elif any(rest.strip() for rest in lines[index + 1 :]):
            raise ValueError(f"{path}, line {index + 1}: no JSON object; delete that line to read the rest")
    return found


def _parse(line: bytes) -> dict[str, Any] | None:
    """Returns the event on one line, or None if the line is not a complete JSON object."""
    try:
        event = json.loads(line)
    except ValueError:  # includes UnicodeDecodeError: a line may end inside a character
        return None
    return event if isinstance(event, dict) else None


def _repair_last_line(path: Path) -> None:
    """Makes a log end with a newline, in place: a complete event gets one, an incomplete last line is cut off.

    Does nothing if there is no such file.
    """
    try:
        with open(path, "r+b") as file:
            data = file.read()
            tail = data[data.rfind(b"\n") + 1 :]
            if tail and _parse(tail) is not None:
                file.write(b"\n")
            elif tail:
                file.truncate(len(data) - len(tail))
    except FileNotFoundError:
        pass
