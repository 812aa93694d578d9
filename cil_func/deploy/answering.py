"""Runs a command so that each failure that a person can repair is one line, with the exit status of its kind."""

import traceback
from collections.abc import Callable
from contextlib import suppress

import torch

from cil_func.errors import CilError, MachineError
from cil_func.runs import output
from cil_func.runs.command_line import INTERRUPTED


def answered(name: str, work: Callable[[], int]) -> int:
    """Calls work() and returns the exit status that it returns.

    name: of the command; it begins the line on stderr that a failure becomes.
    A CilError gives its own exit status, Ctrl-C 130, any other exception, a bug, its traceback and 1. If nobody reads
    stdout any more (`| head`), the command ends with the status of what it has found until then: 0 if all was well.
    """
    try:
        status = work()
        output.flush(status)
        return status
    except output.NobodyReadsError as error:
        return error.exit_status
    except (MemoryError, torch.OutOfMemoryError) as error:
        on_gpu = isinstance(error, torch.OutOfMemoryError)
        text = "the GPU's memory is full; --device cpu uses the machine's" if on_gpu else "the machine's memory is full"
        return _told(name, MachineError(text))
    except CilError as error:
        return _told(name, error)
    except KeyboardInterrupt:
        output.tell(f"{name}: interrupted")
        return INTERRUPTED
    except Exception:
        with suppress(OSError):  # a stderr that nobody reads
            traceback.print_exc()
        return 1


def _told(name: str, error: CilError) -> int:
    """Prints the line of an error and returns its exit status."""
    output.tell(f"{name}: {error}")
    return error.exit_status
