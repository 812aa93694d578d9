"""Shows a run on the screen: with a live bar on a terminal, as plain lines anywhere else.

    with console.make() as show:
        show({"event": "run_start", ...})

A console needs nothing but the events. It ignores events and fields that it doesn't know. Phases are numbered from 0,
as in results.json; "(1/5)" means the first of five.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

from cil_func.report.base_console import Console
from cil_func.report.plain_console import PlainConsole
from cil_func.report.terminal_console import TerminalConsole


def make(
    stream: TextIO | None = None,
    plain: bool | None = None,
    *,
    width: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Console:
    """Returns a console that prints to a stream.

    stream: None for standard output. plain: True prints lines, False draws a live bar; None prints lines unless the
    stream is a terminal that can move its cursor.
    width: columns of the terminal, for the live bar; None asks the terminal.
    clock: a function that returns seconds, for the time left and for how often lines are printed.
    """
    stream = sys.stdout if stream is None else stream
    if plain is None:  # rich's own test is not used: FORCE_COLOR, which many CI machines set, makes it true for files
        plain = not stream.isatty() or os.environ.get("TERM", "") in ("dumb", "unknown")
    return PlainConsole(stream, clock) if plain else TerminalConsole(stream, clock, width=width)
