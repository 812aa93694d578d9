"""Standard output of a command, which may be closed, full, or read by nobody any more."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from cil_func.runs import files


class NobodyReadsError(BrokenPipeError):
    """Nobody reads stdout any more, as of `| head`. exit_status: that of what the command has found until then."""

    def __init__(self, exit_status: int):
        super().__init__("nobody reads stdout any more")
        self.exit_status = exit_status


def prepare() -> None:
    """Makes stdout and stderr fit for printing. A command calls it before it prints anything.

    What is printed to a closed one (`>&-`) is lost. A letter that stdout's encoding lacks becomes text like "\\xe4".
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open until the end)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def say(text: str, exit_status: int = 0) -> None:
    """Prints text as a line on stdout. exit_status, errors: as of `writing`."""
    with writing(exit_status):
        print(text)


def flush(exit_status: int = 0) -> None:
    """Writes out what was printed on stdout so far. exit_status, errors: as of `writing`."""
    with writing(exit_status):
        sys.stdout.flush()


@contextmanager
def writing(exit_status: int) -> Iterator[None]:
    """Returns a context manager for a block that does nothing but write to stdout.

    exit_status: that of what the command has found so far.
    Raises NobodyReadsError with this status if nobody reads stdout any more, DiskError if it can't be written, as on a
    full disk. What is printed after that is lost.
    """
    try:
        yield
    except OSError as error:
        lose()
        if isinstance(error, BrokenPipeError):
            raise NobodyReadsError(exit_status) from error
        with files.disk_errors("stdout"):
            raise


def lose() -> None:
    """Makes what is on its way to stdout, and all that follows, lost: else Python complains of it when it ends."""
    with suppress(OSError, ValueError):  # a stream without a descriptor
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
