"""Failures that a person can repair: each is one line, and has the exit status of the command."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_SHOWN = 4  # of several mistakes


def printable(text: str) -> str:
    """Returns the text with what can't be printed escaped: a line break becomes "\\n", a control character "\\x1b".

    Bytes that are no UTF-8, which Python has as surrogates in names of files, are escaped too.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class CilError(Exception):
    """A failure with a message for a person, made one printable line whatever it contains.

    exit_status: that of the command, an attribute of the class.
    """

    exit_status = 1

    def __init__(self, message: str):
        super().__init__(printable(message))


class ConfigError(CilError):
    """A mistake that the configuration's TOML and the command's flags show by themselves, without the data."""

    exit_status = 2


class OwnCodeError(ConfigError):
    """A user's own function, named in the configuration, that can't be imported or fails.

    __cause__ is the exception that it raised; a run writes its traceback into traceback.txt.
    """


class DataError(CilError):
    """A mistake that only the data show: a missing folder, a broken image, increments or an order that don't fit.

    mistakes: one text each, at least one. The message is the text of a single one, or the first four, numbered, and how
    many more there are. The attribute `mistakes` has all.
    """

    exit_status = 3

    def __init__(self, *mistakes: str):
        self.mistakes = mistakes
        lines = [f"({number}) {text}" for number, text in enumerate(mistakes[:_SHOWN], 1)]
        more = [f"and {len(mistakes) - _SHOWN} more"] if len(mistakes) > _SHOWN else []
        super().__init__("; ".join(lines + more) if len(mistakes) > 1 else mistakes[0])


class Mistakes:
    """Collects mistakes of the data, so that a person gets them all at once.

    lines: those to begin with, one text each; also an attribute, a list to which mistakes may be added.
    """

    def __init__(self, lines: Iterable[str] = ()):
        self.lines = list(lines)

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Returns a context manager that adds the mistakes of a DataError raised in its block to `lines`.

        Execution goes on behind the block. Other exceptions pass.
        """
        try:
            yield
        except DataError as error:
            self.lines += error.mistakes

    def refuse(self) -> None:
        """Raises DataError with all lines if there is any, else does nothing."""
        if self.lines:
            raise DataError(*self.lines)


class MachineError(CilError):
    """This machine lacks something that the configuration needs: memory, or a compiler."""

    exit_status = 2


class PeerError(CilError):
    """Another process of the run failed or was lost."""


class StoppedError(BaseException):
    """A signal stopped the run; exit_status is 129 (SIGHUP), 130 (SIGINT) or 143 (SIGTERM).

    Like KeyboardInterrupt it is no Exception: it may be raised anywhere, and must not be taken for a broken image.
    """

    def __init__(self, exit_status: int, message: str):
        super().__init__(printable(message))
        self.exit_status = exit_status


class NonFiniteError(CilError):
    """A loss or gradient that is not finite."""

    exit_status = 4


class CheckpointError(CilError):
    """A checkpoint or a saved model whose files are damaged or missing."""

    exit_status = 5


class InUseError(CilError):
    """The run directory belongs to another process that is alive."""

    exit_status = 6


class DiskError(CilError):
    """A file that can't be written: the disk is full, read-only or broken, or there is no right to."""

    exit_status = 74
