"""What happens in a run, on disk: files that are whole or not there, one event a line, the run's status.

An event is a plain dict with the key "event"; every reader (`report/`) lives from these files alone.
JSON here is strict: Python's `NaN` and `Infinity` are no JSON, and other readers refuse the whole file.
"""

import contextlib
import errno
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cil_func.errors import DiskError

SKIPPED = frozenset({"progress"})  # several a second, for the eye only
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or ask for a larger quota",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EROFS: "mount it for writing, or choose another directory",
    errno.EACCES: "ask for the right to write there, or choose another directory",
    errno.EPERM: "ask for the right to write there, or choose another directory",
    errno.ENOENT: "make its folder",
}
# What the call isn't made for, or has no right to, as opposed to what failed.
_CANNOT_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EBADF})


@contextlib.contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Turns an OSError of the block into a DiskError that says on one line what is wrong with `path`."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno, "look at the disk")
        raise DiskError(f"{path}: {error.strerror or error}; {advice}") from error


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes a file atomically: after a crash, a power cut or a full disk `path` holds the old bytes or the new.

    Raises DiskError (no folder, no space, no right); the old file and no temporary one are left then. What a
    killed process leaves, `clean` removes.
    """
    write_chunks(path, (data,))


def write_chunks(path: str | Path, chunks: Iterable) -> None:
    """As `write_bytes`, of pieces that are made one by one, so that they need not be in memory together."""
    path = Path(path)
    # Not tempfile: its files are readable by the owner alone, and os.replace would keep that.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            with open(temporary, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())  # before the rename, else a power cut may leave the new name, empty
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)


def clean(*folders: str | Path) -> None:
    """Removes the temporary files that killed processes left in `folders`, whatever they were writing.

    Nobody else may be writing there: call it under the lock (`lock.held`). A folder that isn't there and a file that
    can't be deleted are passed over, for neither does harm.
    """
    for folder in map(Path, folders):
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                if _TEMPORARY.fullmatch(path.name):
                    with contextlib.suppress(OSError):
                        path.unlink()


def make_directory(path: str | Path) -> None:
    """Makes a folder that lasts through a power cut, and those above it; raises DiskError."""
    path = Path(path)
    with disk_errors(path):
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            _sync_directory(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically; raises DiskError as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as strict, indented JSON with a trailing newline, atomically.

    Arrays and tensors become numbers and lists. Raises ValueError that names the key of a number that is
    not finite (results with a NaN in them are a fault to find, not to write), DiskError as `write_bytes` does.
    """
    plain = _plain(value, str(path), refuse=True)
    write_text(path, json.dumps(plain, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


class Log:
    """Appends events to a file, one line of strict JSON each, with "time" in UNIX seconds added.

    A line is on disk, as far as the system knows, when the call returns; "progress" events are skipped. A number that
    is not finite is written as null: the loss that ends a run must not end its log. What a killed process left of a
    last line is cut off when the file is opened again, else the next event would be glued to it.
    A file that was deleted is written again, whole; one that was replaced or cut short is appended to. Either is told
    by a "warning" event in the file, which `tell` gets too.
    Raises DiskError (no folder, no space), and nothing is left of the event then.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Callable[[], float] = time.time,
        tell: Callable[[Mapping[str, Any]], None] = lambda event: None,
    ) -> None:
        self._clock, self._path, self._tell = clock, Path(path), tell
        with disk_errors(path):
            self._open()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Records one event."""
        if event.get("event") not in SKIPPED:
            self._restore()
            self._write(event)

    def size(self) -> int:
        """Bytes of the file, to which `os.truncate` can take it back later."""
        self._restore()
        return os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Closes the file; a second call does nothing."""
        with disk_errors(self._path):
            self._file.close()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> None:
        _mend(self._path)
        # Unbuffered: what couldn't be written must not come back when the file is closed.
        self._file = open(self._path, "a+b", buffering=0)  # noqa: SIM115 (closed by close)
        self._size = os.fstat(self._file.fileno()).st_size

    def _write(self, event: Mapping[str, Any]) -> None:
        plain = _plain({**event, "time": round(self._clock(), 3)}, "event", refuse=False)
        line = (json.dumps(plain, allow_nan=False, ensure_ascii=False) + "\n").encode("utf-8")
        with disk_errors(self._path):
            try:
                while line:
                    line = line[self._file.write(line) :]
            except OSError:
                os.ftruncate(self._file.fileno(), self._size)
                raise
            self._size = os.fstat(self._file.fileno()).st_size

    def _restore(self) -> None:
        """Opens the file anew if somebody deleted, replaced or cut it, and tells that."""
        with disk_errors(self._path):
            done = self._done_to_it()
            if not done:
                return
            if done == "deleted":  # it has no name any more, but its bytes
                write_bytes(self._path, os.pread(self._file.fileno(), self._size, 0))
            self._file.close()
            self._open()
        now = "it is written again" if done == "deleted" else "events are appended to what it is now"
        warning = {"event": "warning", "message": f"{self._path.name} was {done} while the run went on; {now}"}
        self._write(warning)
        self._tell(warning)

    def _done_to_it(self) -> str:
        """ "deleted", "replaced" or "cut short"; "" for a file that is as it was left."""
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
    """The events of a file, in order; a torn last line (the process was killed) is left out.

    Raises OSError if there is no such file, ValueError that names the line if another one is broken.
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


def _plain(value: Any, where: str, *, refuse: bool) -> Any:
    """`value` in JSON's own types; a float that isn't finite raises ValueError (`refuse`) or becomes None."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        if refuse:
            raise ValueError(f"{where}: {value} is not finite, and JSON has no such number")
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}: {key}", refuse=refuse) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{index}]", refuse=refuse) for index, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # NumPy's and torch's arrays and scalars, without importing either
        return _plain(value.tolist(), where, refuse=refuse)
    raise TypeError(f"{where}: {type(value).__name__} has no form in JSON")


def _parse(line: bytes) -> dict[str, Any] | None:
    """The event on one line, or None if the line holds no whole JSON object."""
    try:
        event = json.loads(line)
    except ValueError:  # UnicodeDecodeError is one too: a line may be torn inside a character
        return None
    return event if isinstance(event, dict) else None


def _mend(path: Path) -> None:
    """Ends a log's last line: with a newline if the event on it is whole, else by cutting it off."""
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


def _sync_directory(directory: Path) -> None:
    """Makes a rename last through a power cut; some file systems can't, and that alone is no failure."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
