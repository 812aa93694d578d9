"""A run on the screen: a live bar on a terminal, plain lines anywhere else.

    with console.make() as show:
        show({"event": "run_start", ...})

A console is a consumer of events; it keeps no file and knows nothing but the events, and it ignores events
and fields that it doesn't know. Phases are numbered from 0 as in results.json, "(1/5)" is the first of five.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from rich.console import Console as Screen
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cil_func.report import lines, tables
from cil_func.report.time_left import TimeLeft, duration

Event = Mapping[str, Any]

_SHOWN = frozenset({
    "run_start", "resume", "warning", "phase_start", "compiling", "compiled", "progress", "epoch", "evaluation",
    "phase_end", "run_end",
})  # fmt: skip
_LINES_A_PHASE = 10
_SHORTEST_SILENCE = 10.0  # seconds between two epoch lines of a fast run
_LONGEST_SILENCE = 300.0  # seconds after which a slow run shows that it lives
_REFRESH = 0.25  # seconds between two drawings of the bar


def make(
    stream: TextIO | None = None,
    plain: bool | None = None,
    *,
    width: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> "Console":
    """A console on `stream` (default: standard output).

    plain: lines instead of a live bar; None: unless the stream is a terminal that can move its cursor.
    width: columns of the terminal, None: asked from it. clock: seconds, for the time left and the pace.
    """
    stream = sys.stdout if stream is None else stream
    if plain is None:  # not rich's own test, which FORCE_COLOR, set on many CI machines, turns on for files
        plain = not stream.isatty() or os.environ.get("TERM", "") in ("dumb", "unknown")
    if plain:
        return Plain(stream, clock)
    return Terminal(Screen(file=stream, force_terminal=True, width=width, highlight=False), clock)


class Console:
    """What both consoles share: the state that events leave, and one method an event."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.left = TimeLeft(clock)
        self.run: Event = {}
        self.phase: Event = {}
        self.rows: list[Event] = []

    def __call__(self, event: Event) -> None:
        """Shows one event."""
        self.remember(event)
        kind = event.get("event")
        if kind in _SHOWN:
            getattr(self, kind)(event)

    def remember(self, event: Event) -> None:
        """Takes note of an event without showing it: of a run that goes on, what happened before."""
        self.left(event)
        kind = event.get("event")
        if kind in ("run_start", "resume"):
            self.run = event
        elif kind == "phase_start":
            self.phase = event
        elif kind == "phase_end":
            self.rows.append(event)

    def warning(self, event: Event) -> None:
        """One line: something that doesn't stop the run."""
        self._print(f"warning: {event.get('message', '-')}")

    def close(self) -> None:
        """Gives the terminal back; needed before anybody else prints, harmless when repeated."""

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def phase_name(self, event: Event) -> str:
        """The phase as "phase 0 (1/5)"."""
        index, count = event.get("phase", 0), len(self.run.get("phases") or [])
        return f"phase {index} ({index + 1}/{count})" if count else f"phase {index}"

    def epoch_name(self, event: Event) -> str:
        """The epoch as " 3/40", counted from 1, always equally wide in a phase."""
        count = str(event.get("epochs") or self.phase.get("epochs") or "-")
        return f"{event.get('epoch', 0) + 1:>{len(count)}}/{count}"

    def results(self, end: Event) -> dict[str, Any]:
        """The run's results as far as the events tell them."""
        return {**end, "phases": self.rows}


class Plain(Console):
    """Plain ASCII lines that read well in a log, each flushed: a few of the epochs, each phase, the end."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._stream = stream
        self._printed = -math.inf  # when the last line about an epoch was printed

    def run_start(self, event: Event) -> None:
        """Two lines about the run."""
        self._print(*lines.header_lines(event))

    def resume(self, event: Event) -> None:
        """The same, and from where it goes on."""
        self._printed = self.clock()
        self._print(*lines.header_lines(event), lines.resume_line(event))

    def phase_start(self, event: Event) -> None:
        """One line about the phase."""
        self._printed = self.clock()
        self._print("", f"{self.phase_name(event)}: {lines.phase_text(event)}")

    def compiling(self, event: Event) -> None:
        """One line: otherwise nothing would be printed for a minute."""
        self._print(f"  {lines.compiling_text(event)}")

    def compiled(self, event: Event) -> None:
        """One line: how long it took."""
        self._print(f"  compiled in {duration(event.get('seconds'))}")

    def progress(self, event: Event) -> None:
        """Nothing, unless an epoch is so long that a person would wonder."""
        planned = self.phase.get("train_images") or 0
        if planned and self.clock() - self._printed >= _LONGEST_SILENCE:
            done = 100 * (self.left.images() / planned - event.get("epoch", 0))
            self._epoch_line(event, f"{min(done, 100):.0f} % of its images")

    def epoch(self, event: Event) -> None:
        """One line for the first epoch, the last one, and some between: a log of 170 epochs stays short."""
        index, count = event.get("epoch", 0), event.get("epochs") or 0
        silence = self.clock() - self._printed
        due = index % max(1, math.ceil(count / _LINES_A_PHASE)) == 0 and silence >= _SHORTEST_SILENCE
        if index == 0 or index + 1 == count or due or silence >= _LONGEST_SILENCE:
            rate = event.get("images_per_second")
            figures = (
                f"loss {tables.number(event.get('loss'), 4):>7}",
                f"train {tables.number(event.get('train_top1')):>5} %",
                f"{'-' if rate is None else format(rate, '.0f'):>6} images/s",
            )
            self._epoch_line(event, "  ".join(figures))

    def evaluation(self, event: Event) -> None:
        """One line: `optim.eval_every_epochs` asked for this evaluation."""
        accuracy = tables.number(event.get("logits_top1"))
        self._print(f"  epoch {self.epoch_name(event)}  test top1 by logits {accuracy} %")

    def phase_end(self, event: Event) -> None:
        """The phase's row, with its titles: epoch lines stand between this row and the last one."""
        self._print(tables.header_line(), tables.row_line(event))

    def run_end(self, event: Event) -> None:
        """The whole table and the summary."""
        self._print("", tables.phase_table(self.results(event)), lines.time_line(event))

    def _epoch_line(self, event: Event, text: str) -> None:
        self._printed = self.clock()
        left = duration(self.left.seconds())
        self._print(f"  epoch {self.epoch_name(event)}  {text}  {left:>8} left")

    def _print(self, *texts: str) -> None:
        # A folder's name must not end a run whose log is in an encoding that can't write it.
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        text = "\n".join(texts).encode(encoding, "backslashreplace").decode(encoding)
        print(text, file=self._stream, flush=True)


class Terminal(Console):
    """A live bar with what the run is doing, under the table of phases that grows above it.

    Drawn by the thread that brings the events: a thread of its own could hold rich's lock while the data
    loader forks, and a worker that prints a warning would then wait for it for ever. Only during a compilation, when
    no data are loaded, a thread draws the clock.
    """

    def __init__(self, screen: Screen, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._screen = screen
        self._live: Live | None = None
        self._drawn = -math.inf
        self._latest: dict[str, Any] = {}  # fields of the newest events: what the bar shows
        self._doing = ""
        self._compiling: tuple[str, float] | None = None  # what the bar says, and the time at which it began
        self._titled = False  # whether the table has its titles

    def run_start(self, event: Event) -> None:
        """Two lines about the run; the bar appears."""
        self.close()
        self._print(*lines.header_lines(event))
        self._open()

    def resume(self, event: Event) -> None:
        """The same, and from where the run goes on."""
        self.run_start(event)
        self._print(lines.resume_line(event))

    def phase_start(self, event: Event) -> None:
        """An empty bar."""
        self._latest, self._doing = {}, f"starting: {lines.phase_text(event)}"
        self._draw(now=True)

    def compiling(self, event: Event) -> None:
        """The bar says what is compiled, beside a clock that moves although no event comes."""
        self._compiling = lines.compiling_text(event), self.clock()
        self.close()
        self._open(ticking=True)

    def compiled(self, event: Event) -> None:
        """The clock goes."""
        self._compiling = None
        self.close()
        self._open()

    def progress(self, event: Event) -> None:
        """The bar moves."""
        self._doing = ""
        self._latest["epoch"] = event.get("epoch", 0)
        self._draw()

    def epoch(self, event: Event) -> None:
        """The bar's figures change."""
        self._latest.update(event)
        last = event.get("epoch", 0) + 1 == event.get("epochs")
        self._doing = "trained; evaluating" if last else ""
        self._draw(now=last)

    def evaluation(self, event: Event) -> None:
        """The bar shows the accuracy on the test images, until the phase ends."""
        self._latest["logits_top1"] = event.get("logits_top1")
        self._draw()

    def phase_end(self, event: Event) -> None:
        """The phase's row joins the table above the bar."""
        if not self._titled:
            self._print(tables.header_line(), style="dim")
        self._titled = True
        self._print(tables.row_line(event), style="dim")

    def run_end(self, event: Event) -> None:
        """The bar goes; the whole table and the summary."""
        self.close()
        results = self.results(event)
        self._screen.print(tables.rich_table(results))
        self._print(*tables.LEGEND, style="dim")
        self._print("", *tables.summary_lines(results), lines.time_line(event))

    def close(self) -> None:
        """Takes the bar away and shows the cursor again."""
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def bar(self) -> Group:
        """Two lines: the phase's bar with epoch and time left for the run; loss, accuracy and speed."""
        phase, latest = self.phase, self._latest
        planned = (phase.get("train_images") or 0) * (phase.get("epochs") or 0)
        line = Table.grid(padding=(0, 2, 0, 0), expand=True)
        for ratio in (None, 1, None, None):
            line.add_column(ratio=ratio, no_wrap=True)
        line.add_row(
            Text(self.phase_name(phase), style="bold"),
            ProgressBar(
                total=max(1, planned),
                completed=min(planned, self.left.images()),
                complete_style="cyan",
                finished_style="green",
            ),
            f"epoch {self.epoch_name(latest)}",
            Text(f"run {duration(self.left.seconds())} left", style="cyan"),
        )
        doing = self._doing
        if self._compiling:
            text, since = self._compiling
            doing = f"{text}   {duration(self.clock() - since)}"
        return Group(line, Text(lines.measures_text(latest, doing), no_wrap=True, overflow="ellipsis"))

    def _open(self, *, ticking: bool = False) -> None:
        """Shows the bar; ticking: redraws it once a second, by a thread that `close` ends."""
        self._live = Live(
            get_renderable=self.bar,
            console=self._screen,
            auto_refresh=ticking,
            refresh_per_second=1,
            transient=True,
        )
        self._live.start()

    def _draw(self, *, now: bool = False) -> None:
        if self._live is not None and (now or self.clock() - self._drawn >= _REFRESH):
            self._drawn = self.clock()
            self._live.refresh()

    def _print(self, *texts: str, style: str = "") -> None:
        # A Text: rich would read "[2]" as markup; and a style given to print would dim the bar below too.
        self._screen.print(Text("\n".join(texts), style=style))
