"""Writes files so that each is complete or absent, and turns errors of the disk into a DiskError of one line.

JSON is strict here: Python's `NaN` and `Infinity` are not JSON, and other programs refuse the whole file.
"""

import contextlib
import errno
import json
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cil_func.errors import DiskError

CALIBRATION = "calibration.safetensors"  # what the command calibrate leaves in a run directory
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # the names that `write_chunks` gives to temporary files
_ADVICE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or ask for a larger quota",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EROFS: "mount it for writing, or choose another directory",
    errno.EACCES: "ask for the right to write there, or choose another directory",
    errno.EPERM: "ask for the right to write there, or choose another directory",
    errno.ENOENT: "make its folder",
}
# With these codes the file system refuses to sync a folder at all, which is no sign of a broken disk.
_CANNOT_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EBADF})


@contextlib.contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Returns a context manager that turns an OSError of its block into a DiskError of one line.

    path: the file or folder that the line names, whatever the OSError names. The line also says what the system
    reported and what to do.
    """
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "look at the disk")
        raise DiskError(f"{path}: {error.strerror or error}; {advice}") from error


def write_bytes(path: str | Path, data: bytes) -> None:
    """Writes bytes to a file atomically: after a crash, a power cut or a full disk it has the old content or the new.

    Raises DiskError if there is no folder, no space or no right to write. Then the old file is unchanged and the
    temporary file is deleted. A process that is killed leaves its temporary file; `remove_temporary_files` deletes it.
    """
    write_chunks(path, (data,))


def write_chunks(path: str | Path, chunks: Iterable) -> None:
    """Writes a file atomically from several pieces of bytes. Raises DiskError, as `write_bytes` does.

    chunks: bytes or buffers, in order. They may be made one by one, so that they need not fit in memory together. If
    making one raises, the old file stays.
    """
    path = Path(path)
    # tempfile is not used: its files are readable by the owner alone, and os.replace keeps those rights.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        try:
            with open(temporary, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())  # before the rename: else a power cut may leave an empty file of the new name
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically. Raises DiskError, as `write_bytes` does.

    Bytes of a file name that are no UTF-8, which Python has as surrogates, become text like "\\udcff".
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as strict, indented JSON with a newline at the end, atomically.

    value: what `json_value` takes.
    Raises ValueError, which names the key, for a number that is not finite: a NaN in the results is a fault to be
    found, not to be stored. Raises TypeError for a value that has no form in JSON. Raises DiskError, as `write_bytes`
    does.
    """
    plain = json_value(value, str(path), refuse=True)
    write_text(path, json.dumps(plain, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_object(path: str | Path) -> dict[str, Any]:
    """Returns the JSON object in a file; {} if the file is missing, damaged, or holds something else."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def json_value(value: Any, where: str, *, refuse: bool) -> Any:
    """Returns `value` in JSON's own types: arrays and tensors become lists and numbers, paths become text.

    value: None, text, numbers, paths, arrays and tensors, and dicts, lists and tuples of these. where: what an error
    message calls it.
    refuse: what happens to a float that is not finite. True: it raises ValueError. False: it becomes None.
    Raises TypeError for a value of any other type.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        if refuse:
            raise ValueError(f"{where}: {value} is not finite, and JSON has no such number")
        return None
    if isinstance(value, Mapping):
        return {str(key): json_value(item, f"{where}: {key}", refuse=refuse) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item, f"{where}[{index}]", refuse=refuse) for index, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # the arrays and scalars of NumPy and torch, without importing either
        return json_value(value.tolist(), where, refuse=refuse)
    raise TypeError(f"{where}: {type(value).__name__} has no form in JSON")


def make_directory(path: str | Path) -> None:
    """Makes a folder, and those above it, so that it survives a power cut. Raises DiskError.

    A folder that is there already stays as it is.
    """
    path = Path(path)
    with disk_errors(path):
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            _sync_directory(path.parent)


def remove_temporary_files(*folders: str | Path) -> None:
    """Deletes the temporary files and folders that killed processes left in these folders, not in folders below them.

    Call it only while this process has the run directory's lock (`lock.lock_directory`), so that no other process is
    writing there. A folder that is missing and a file that can't be deleted are ignored: neither does harm.
    """
    for folder in map(Path, folders):
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                if _TEMPORARY.fullmatch(path.name):
                    with contextlib.suppress(OSError):
                        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _sync_directory(directory: Path) -> None:
    """Makes a rename in the folder survive a power cut, where the file system can do that.

    Raises OSError if the disk fails. Does nothing if the file system can't sync a folder, or doesn't let this user.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
