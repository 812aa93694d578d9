"""One run directory, one process: a lock that ends with the process that holds it, however that ends.

It is flock's, on a file that says who holds it. The file stays when the lock is gone: were it deleted, two processes
could each lock one of that name.
The package filelock (4.3) doesn't say who holds a lock, and fails on a file system that answers ENOLCK or ENOTSUP. With
what does both added again, it would replace no more than the call of flock.
"""

import contextlib
import errno
import os
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from cil_func.errors import InUseError, MachineError
from cil_func.runs import files

try:
    import fcntl
except ImportError:  # Windows; what needs no lock works there
    fcntl = None

NAME = ".lock"
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL})
_PATIENCE = 1.0  # seconds in which a holder that is starting writes its name, and one that was killed ends

_held: set[int] = set()  # descriptors


@contextlib.contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Holds the lock of a directory, which exists, for the block.

    flock's lock belongs to the open file, and lasts until the last process that shares it is gone. So a program that
    is started doesn't inherit the descriptor, and a forked child (a loader's worker) closes its own at once. Only a
    child that C code forks, past Python's hooks, would keep the lock of a parent that was killed.
    Where the file system has no locks, it warns (RuntimeWarning) and goes on without.
    Raises InUseError where a live process holds it, this one included; DiskError where the file can't be written;
    MachineError on a system without flock.
    """
    if fcntl is None:
        raise MachineError(f"{directory} can't be locked: this system has no flock; train on Linux, macOS or in WSL")
    directory = Path(directory)
    with files.disk_errors(directory / NAME):
        descriptor = os.open(directory / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    _held.add(descriptor)
    try:
        _take(descriptor, directory)
        yield
    finally:
        _give_back(descriptor)


def _take(descriptor: int, directory: Path) -> None:
    """Locks the open file and writes our name into it."""
    deadline = time.monotonic() + _PATIENCE
    with files.disk_errors(directory / NAME):
        while not _locked(descriptor, directory):
            holder = os.pread(descriptor, 1000, 0).decode(errors="replace").partition("\n")[0]
            lives = _lives(holder)
            if lives or time.monotonic() > deadline:
                who = "process {} on {}".format(*holder.split()) if lives else "another process"
                raise InUseError(f"{directory} is in use by {who}; wait for it, or choose another --out")
            time.sleep(0.02)
        name = f"{os.getpid()} {socket.gethostname()}\n".encode()
        os.pwrite(descriptor, name, 0)  # before the file is cut: nobody ever reads an empty one
        os.ftruncate(descriptor, len(name))


def _locked(descriptor: int, directory: Path) -> bool:
    """Whether the lock is ours now, as far as the file system knows locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        message = f"{directory} can't be locked ({error.strerror}): see to it that no other process writes there"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    return True


def _lives(holder: str) -> bool:
    """Whether "pid host" is a live process, or one on another machine, of which nobody here knows."""
    pid, _, host = holder.partition(" ")
    if not pid.isdecimal() or not host:
        return False
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _give_back(descriptor: int) -> None:
    if descriptor not in _held:
        return  # a forked child leaves the block: the lock is its parent's
    _held.discard(descriptor)
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # and not only closed: a child may hold a copy after all
    os.close(descriptor)


def _close_in_child() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
