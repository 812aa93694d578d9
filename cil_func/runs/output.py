"""Prints what a command says, wherever its output goes: a terminal, a full disk, or a pipe that nobody reads."""

import codecs
import errno
import io
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from cil_func.runs import files

_ESCAPED = "cil_func.escaped"  # the name by which codecs know `_escape`


class NobodyReadsError(BrokenPipeError):
    """Nobody reads stdout any more. exit_status: that of what the command has found until then."""

    def __init__(self, exit_status: int):
        super().__init__("nobody reads stdout any more")
        self.exit_status = exit_status


def prepare() -> None:
    """Makes stdout and stderr fit for printing. A command calls it before it prints anything.

    What is printed to a closed one (`>&-`) is lost. A character that stdout's encoding lacks is printed as "\\u00fc",
    which TOML and JSON read as that character.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open until the end)
    if isinstance(sys.stdout, io.TextIOWrapper):
        codecs.register_error(_ESCAPED, _escape)
        sys.stdout.reconfigure(errors=_ESCAPED)


def show(*texts: str, end: str = "\n") -> None:
    """Prints texts on stdout, one a line, and flushes it. Prints nothing if nobody reads it any more.

    end: what follows the last text. Raises DiskError if stdout is a file that can't be written.
    """
    with suppress(NobodyReadsError), writing():
        print("\n".join(texts), end=end, flush=True)


def say(text: str, exit_status: int = 0) -> None:
    """Prints text as a line on stdout. exit_status, errors: as of `writing`."""
    with writing(exit_status):
        print(text)


def tell(text: str, stream: TextIO | None = None) -> None:
    """Prints a line, if it can still be written, else nothing. stream: None: stderr."""
    with suppress(OSError):
        print(text, file=stream or sys.stderr, flush=True)


def flush(exit_status: int = 0) -> None:
    """Writes out what was printed on stdout so far. exit_status, errors: as of `writing`."""
    with writing(exit_status):
        sys.stdout.flush()


def end() -> None:
    """Flushes stdout and stderr. What one of them doesn't take is lost, or Python would complain when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, full, or nobody reads it
            lose(stream)


@contextmanager
def writing(exit_status: int = 0) -> Iterator[None]:
    """Returns a context manager for a block that does nothing but write to stdout.

    exit_status: that of what the command has found so far.
    Raises NobodyReadsError with this status if nobody reads stdout any more, DiskError if it can't be written, as on a
    full disk. What is printed after that is lost.
    """
    try:
        yield
    except OSError as error:
        unread = error.errno == errno.EPIPE or (error.errno == errno.EIO and _is_device(sys.stdout))
        lose(sys.stdout)
        if unread:
            raise NobodyReadsError(exit_status) from error
        with files.disk_errors("stdout"):
            raise


def _is_device(stream: TextIO) -> bool:
    """Returns whether a stream is a terminal, maybe one that was closed: it answers EIO, as a broken disk does."""
    try:
        return stat.S_ISCHR(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError, AttributeError):
        return False


def lose(stream: TextIO) -> None:
    """Makes what is on its way to a stream, and all that follows, lost."""
    with suppress(OSError, ValueError, AttributeError):  # no stream of this process's own
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Returns what stands for characters that an encoding lacks, and where to go on: as codecs.register_error wants."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    codes = map(ord, error.object[error.start : error.end])
    return "".join(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}" for code in codes), error.end
