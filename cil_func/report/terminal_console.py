"""Shows a run on a terminal: a live bar, under what the phases so far reached."""

import math
from collections.abc import Callable
from typing import Any, TextIO

from rich.console import Console as Screen
from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cil_func.report import lines, tables
from cil_func.report.base_console import Console, Event
from cil_func.report.time_left import duration

_REFRESH = 0.25  # seconds between two drawings of the bar


class TerminalConsole(Console):
    """Draws a bar with what the run is doing, and prints above it what each phase brought and reached.

    stream: the terminal. clock: a function that returns seconds. width: columns of the terminal; None asks it.
    The thread that brings the events draws. A drawing thread of its own could have rich's lock while a process is
    forked, and a child that prints a warning would then wait for that lock for ever. Only during a compilation, when no
    process is forked, a thread redraws the clock.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float], *, width: int | None = None) -> None:
        super().__init__(clock)
        self._screen = Screen(file=stream, force_terminal=True, width=width, highlight=False)
        self._live: Live | None = None
        self._drawn = -math.inf  # when the bar was drawn last
        self._latest: dict[str, Any] = {}  # the newest values of the fields that the bar shows
        self._doing = ""
        self._compiling: tuple[str, float] | None = None  # what the bar says, and when the compilation began

    def run_start(self, event: Event) -> None:
        """Prints two lines about the run and shows the bar."""
        self.close()
        self._print(*lines.header_lines(event))
        self._open()

    def resume(self, event: Event) -> None:
        """Prints two lines about the run and one about where it goes on, and shows the bar."""
        self.run_start(event)
        self._print(lines.resume_line(event))

    def phase_start(self, event: Event) -> None:
        """Prints a line about the phase above the bar, and removes the last phase's figures from the bar."""
        self._latest, self._doing = {}, "starting"
        self._print(f"{self.phase_name(event)}: {lines.phase_text(event)}")
        self._draw(now=True)

    def compiling(self, event: Event) -> None:
        """Shows what is compiled, and for how long already: a clock that moves although no event comes."""
        self._compiling = lines.compiling_text(event), self.clock()
        self.close()
        self._open(ticking=True)

    def compiled(self, event: Event) -> None:
        """Removes the clock of the compilation from the bar."""
        self._compiling = None
        self.close()
        self._open()

    def progress(self, event: Event) -> None:
        """Moves the bar to the images that have been trained on."""
        self._doing = ""
        self._latest["epoch"] = event.get("epoch", 0)
        self._draw()

    def epoch(self, event: Event) -> None:
        """Shows the epoch's loss, accuracy and speed in the bar; after the last epoch, that it is evaluating."""
        self._latest.update(event)
        last = event.get("epoch", 0) + 1 == event.get("epochs")
        self._doing = "trained; evaluating" if last else ""
        self._draw(now=last)

    def evaluation(self, event: Event) -> None:
        """Shows the accuracy on the test or validation images in the bar, until the phase ends."""
        self._latest.update(logits_top1=event.get("logits_top1"), on=event.get("on", "test"))
        self._draw()

    def phase_end(self, event: Event) -> None:
        """Prints above the bar what the phase reached, and what aligning did."""
        self._print(*(f"  {line}" for line in lines.result_lines(event)))

    def run_end(self, event: Event) -> None:
        """Removes the bar, and prints the table, with what its columns mean above it, and the summary."""
        self.close()
        results = self.results(event)
        self._print("", *tables.legend(tables.columns_of(results)), style="dim")
        self._screen.print(tables.rich_table(results))
        self._print(*tables.summary_lines(results), lines.time_line(event))

    def close(self) -> None:
        """Removes the bar and shows the cursor again. A second call does nothing."""
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def bar(self) -> Group:
        """Returns the bar's two lines for rich: the phase with epoch and time left; then loss, accuracy and speed."""
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
        """Shows the bar. ticking: whether a thread redraws it once a second, until `close`."""
        self._live = Live(
            get_renderable=self.bar,
            console=self._screen,
            auto_refresh=ticking,
            refresh_per_second=1,
            transient=True,
        )
        self._live.start()

    def _draw(self, *, now: bool = False) -> None:
        """Redraws the bar, unless it was drawn less than a quarter of a second ago. now: redraw even then."""
        if self._live is not None and (now or self.clock() - self._drawn >= _REFRESH):
            self._drawn = self.clock()
            self._live.refresh()

    def _print(self, *texts: str, style: str = "") -> None:
        # A Text, since rich would read "[2]" in a string as markup, and would apply a style to the bar below as well.
        self._screen.print(Text("\n".join(texts), style=style))
