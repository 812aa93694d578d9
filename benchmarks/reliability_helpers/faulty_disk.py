"""Simulates a disk that fails: it replaces Python's file calls for one folder. It measures nothing by itself.

It counts the calls that concern the folder. At a chosen call the process "dies": this call and all later ones raise
`Crash`, so that no handler can tidy up, and what was written but not flushed is lost. Or that call raises an error. The
disk knows which bytes and names were synced, and a simulated power cut removes the others. Folders themselves are never
lost.
"""

import builtins
import contextlib
import errno
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

READING = ("stat", "lstat", "listdir", "scandir")
RENAMING = ("rename", "replace", "unlink", "remove", "mkdir")
DESCRIPTORS = ("fsync", "close")
UNKNOWN = ("rmdir", "truncate", "link", "symlink", "ftruncate", "fdatasync", "write", "pwrite", "writev", "sendfile")


class Crash(BaseException):
    """The simulated end of the process."""


class Inode:
    """A file, independent of its name. synced: the bytes that were synced."""

    def __init__(self, synced: bytes = b""):
        self.synced = synced


class Disk:
    """A simulated disk for one folder.

    folder: an absolute path. at: the call, counted from 0, at which something happens; None for no call.
    when: "before" the call, "half" way through what it writes, or "after" it. error: what the call raises; None lets
    the process die. lasting: whether every later call raises the error too. capacity: how many bytes the folder's files
    may have; None for no limit.

    calls: how many calls there were. happened: whether the fault has happened. written: how many bytes were written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        at: int | None = None,
        when: str = "before",
        error: BaseException | None = None,
        lasting: bool = False,
        capacity: int | None = None,
    ):
        self.folder, self.calls, self.happened, self.written = folder, 0, False, 0
        self._at, self._when, self._error, self._lasting, self._capacity = at, when, error, lasting, capacity
        self._inside = False  # whether a call of this object itself is going on, which doesn't count
        self._paths: dict[int, Path] = {}  # {open file descriptor: path}
        self._names = {path: Inode(path.read_bytes()) for path in _files(folder)}
        self._synced_names = dict(self._names)
        self._real_open, self._real_close = builtins.open, os.close

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Returns a context manager in which Python's file calls for the folder go through this disk."""
        fakes = {(os, name): self._fake(name) for name in (*READING, *RENAMING, *UNKNOWN, *DESCRIPTORS)}
        fakes |= {(os, "open"): self._fake("open"), (builtins, "open"): self._open, (io, "open"): self._open}
        with contextlib.ExitStack() as stack:
            for (module, name), fake in fakes.items():
                stack.enter_context(mock.patch.object(module, name, fake))
            try:
                yield
            finally:
                for descriptor in self._paths:
                    self._real_close(descriptor)
                self._paths.clear()

    def power_cut(self, *, names: bool) -> None:
        """Removes the bytes that were not synced. names: whether to undo changes of names that were not synced too."""
        left = self._synced_names if names else self._names
        for path in _files(self.folder):
            path.unlink()
        for path, inode in left.items():
            path.write_bytes(inode.synced)

    def call(self, act: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Counts one call and does it, unless it is the one that fails.

        act: does the call. half: does half of it, None if the call writes nothing.
        """
        number, self.calls = self.calls, self.calls + 1
        if self.happened and (self._error is None or self._lasting):
            raise self._error or Crash
        here = number == self._at and (half is not None or self._when != "half")
        self._inside = True
        try:
            if here and self._when != "before":
                (half if self._when == "half" else act)()
            if here:
                self.happened = True
                raise self._error or Crash
            return act()
        finally:
            self._inside = False

    def opened(self, path: Path, descriptor: int) -> int:
        """Takes note that a file is open, and returns its descriptor."""
        self._paths[descriptor] = path
        if not path.is_dir():
            self._names.setdefault(path, Inode())
        return descriptor

    def push(self, descriptor: int, data: bytes) -> None:
        """Writes bytes to an open file, as many as fit on the disk, and counts them. Raises OSError if not all fit."""
        if self._capacity is not None:
            room = max(0, self._capacity - sum(path.stat().st_size for path in _files(self.folder)))
            if room < len(data):
                os.write(descriptor, data[:room])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.written += len(data)
        while data:
            data = data[os.write(descriptor, data) :]

    def _fake(self, name: str) -> Callable:
        real = getattr(os, name)

        def call(*args, **settings):
            if self._inside or not self._concerned(*args[:2]):
                return real(*args, **settings)
            if name in UNKNOWN:
                raise NotImplementedError(f"faulty_disk: os.{name}")
            # `power_cut` goes by what this disk has noted; a real sync would only take time.
            act = (lambda *_, **__: None) if name == "fsync" else real
            return self.call(lambda: self._after(name, act(*args, **settings), args))

        return call

    def _after(self, name: str, result: Any, args: tuple) -> Any:
        """Takes note of what a call has done, and returns its result."""
        if name == "open":
            return self.opened(Path(args[0]), result)
        if name in ("rename", "replace"):
            source, target = map(Path, args)
            self._names[target] = self._names.pop(source)
        if name in ("unlink", "remove"):
            self._names.pop(Path(args[0]))
        if name == "close":
            del self._paths[args[0]]
        if name == "fsync":
            self._sync(self._paths[args[0]])
        return result

    def _sync(self, path: Path) -> None:
        if not path.is_dir():
            self._names[path].synced = path.read_bytes()
            return
        kept = {name: inode for name, inode in self._synced_names.items() if name.parent != path}
        self._synced_names = kept | {name: inode for name, inode in self._names.items() if name.parent == path}

    def _open(self, path: Any, mode: str = "r", *args, **settings):
        if self._inside or not self._concerned(path):
            return self._real_open(path, mode, *args, **settings)
        if mode in ("r", "rb"):
            return self.call(lambda: self._real_open(path, mode, *args, **settings))
        if mode != "wb":
            raise NotImplementedError(f"faulty_disk: open in mode {mode!r}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        return File(self, self.call(lambda: self.opened(Path(path), os.open(path, flags, 0o666))))

    def _concerned(self, *args) -> bool:
        paths = [arg for arg in args if isinstance(arg, (str, os.PathLike))]
        descriptors = [arg for arg in args if type(arg) is int]
        return any(Path(path).is_relative_to(self.folder) for path in paths) or any(
            descriptor in self._paths for descriptor in descriptors
        )


class File:
    """A file that is open for writing bytes. It hands nothing to the disk before it is flushed."""

    def __init__(self, disk: Disk, descriptor: int):
        self._disk, self._descriptor, self._pending = disk, descriptor, b""

    def write(self, data: bytes) -> int:
        """Keeps the bytes until `flush`. Returns their number."""
        self._disk.call(lambda: None)
        self._pending += bytes(data)
        return len(data)

    def flush(self) -> None:
        """Hands all bytes to the disk."""
        pending, self._pending = self._pending, b""
        half = pending[: len(pending) // 2]
        self._disk.call(
            lambda: self._disk.push(self._descriptor, pending), lambda: self._disk.push(self._descriptor, half)
        )

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        """Flushes what is left and closes the file."""
        if self._pending:
            self.flush()
        os.close(self._descriptor)

    def __enter__(self) -> "File":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
