"""Locks a run directory for one process. The lock ends with the process, however that ends.

It is a lock of flock on a file that also names the process which has it. The file stays when the lock is released: if
it were deleted, two processes could each lock a file of that name.

The package filelock (4.3) is not used: it doesn't say which process has a lock, and it fails on file systems that
answer ENOLCK or ENOTSUP. With code for both it would replace no more than the call of flock.
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
except ImportError:  # on Windows, where everything that needs no lock works
    fcntl = None  # type: ignore[assignment]  # mypy knows no module that may be missing

NAME = ".lock"
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL})
_PATIENCE = 1.0  # seconds in which a process that is starting writes its name, and one that was killed ends

_held: set[int] = set()  # the descriptors of the locks that this process has


@contextlib.contextmanager
def lock_directory(directory: Path) -> Iterator[None]:
    """Returns a context manager: this process has the lock of an existing directory during its block.

    If the file system has no locks, it warns (RuntimeWarning) and the block runs without a lock.
    Raises InUseError if a live process has the lock, even if it is this one. Raises DiskError if the file can't be
    written, MachineError on a system without flock.
    A lock of flock belongs to the open file and lasts until the last process that shares this file is gone. So a
    program that is started doesn't inherit the descriptor, and a forked child closes its copy at once. Only a child
    that C code forks, without Python's hooks, would keep the lock of a parent that was killed.
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
        _release(descriptor)


def _take(descriptor: int, directory: Path) -> None:
    """Locks the open lock file and writes this process's number and host into it.

    descriptor: of the lock file. directory: the run directory, for messages.
    Raises InUseError at once if a live process has the lock, or after a second if it isn't known which process has it.
    """
    deadline = time.monotonic() + _PATIENCE
    with files.disk_errors(directory / NAME):
        while not _try_lock(descriptor, directory):
            holder = os.pread(descriptor, 1000, 0).decode(errors="replace").partition("\n")[0]
            lives = _lives(holder)
            if lives or time.monotonic() > deadline:
                who = "process {} on {}".format(*holder.split()) if lives else "another process"
                raise InUseError(f"{directory} is in use by {who}; wait for it, or choose another --out")
            time.sleep(0.02)
        name = f"{os.getpid()} {socket.gethostname()}\n".encode()
        os.pwrite(descriptor, name, 0)  # before the file is cut, so that nobody ever reads an empty one
        os.ftruncate(descriptor, len(name))


def _try_lock(descriptor: int, directory: Path) -> bool:
    """Returns whether the open file could be locked at once. On a file system without locks it warns: True."""
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
    """Returns whether the text "PID HOST" names a live process; False for a text of another form.

    One on another machine counts as live: nobody can tell here.
    """
    pid, _, host = holder.partition(" ")
    if not pid.isdecimal() or not host:
        return False
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # a process of another user
        return True
    return True


def _release(descriptor: int) -> None:
    """Releases the lock. Does nothing in a forked child that leaves the block, for the lock is its parent's."""
    if descriptor not in _held:
        return
    _held.discard(descriptor)
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing is not enough if a child has a copy after all
    os.close(descriptor)


def _close_in_child() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
