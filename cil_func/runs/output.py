"""Prints what a command says, wherever its output goes: a terminal, a file, or a pipe that nobody reads any more."""

import errno
import os
import sys
from contextlib import suppress
from typing import TextIO

from cil_func.runs import files

_NO_READER = {errno.EPIPE, errno.EIO}  # as of `| head`, and of a terminal that was closed


def show(*texts: str, end: str = "\n") -> None:
    """Prints texts on stdout, one a line, and flushes it. Prints nothing if nobody reads it any more.

    end: what follows the last text. A character that stdout's encoding lacks is printed as "\\u00fc", which TOML and
    JSON read as that character.
    Raises DiskError if stdout is a file that can't be written.
    """
    if sys.stdout is None:  # closed before the process began
        return
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with files.disk_errors("standard output"):
        try:
            print(_escaped("\n".join(texts), encoding), end=end, flush=True)
        except OSError as error:
            if error.errno not in _NO_READER:
                raise
            _discard(sys.stdout)


def tell(text: str) -> None:
    """Prints a line on stderr, if it can still be written to."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def flush() -> None:
    """Flushes stdout and stderr. What one of them doesn't take is lost, or Python would complain when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError, AttributeError):  # closed, or nobody reads it
            _discard(stream)


def _discard(stream: TextIO) -> None:
    """Sends what a stream still holds, and all that is printed on it later, to nowhere."""
    with suppress(OSError, ValueError, AttributeError):  # no stream of this process's own
        target = os.open(os.devnull, os.O_WRONLY)
        os.dup2(target, stream.fileno())
        os.close(target)


def _escaped(text: str, encoding: str) -> str:
    """Returns a text that an encoding can write: a character that it lacks becomes "\\uXXXX" or "\\UXXXXXXXX"."""
    return "".join(each if _fits(each, encoding) else _escape(ord(each)) for each in text)


def _fits(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _escape(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
