"""Shows a run as plain lines of ASCII text, for files and logs."""

import math
from collections.abc import Callable
from typing import TextIO

from cil_func.report import lines, tables
from cil_func.report.base_console import Console, Event
from cil_func.report.time_left import duration

_LINES_A_PHASE = 10
_SHORTEST_SILENCE = 10.0  # seconds between two epoch lines of a fast run
_LONGEST_SILENCE = 300.0  # seconds after which a slow run prints a line to show that it goes on


class PlainConsole(Console):
    """Prints lines to a stream and flushes each: about the run, each phase and some of its epochs, and the end.

    stream: an open text file, such as standard output. clock: a function that returns seconds.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._stream = stream
        self._printed = -math.inf  # when the last line about an epoch was printed

    def run_start(self, event: Event) -> None:
        """Prints two lines about the run."""
        self._print(*lines.header_lines(event))

    def resume(self, event: Event) -> None:
        """Prints two lines about the run, and one about where it goes on."""
        self._printed = self.clock()
        self._print(*lines.header_lines(event), lines.resume_line(event))

    def phase_start(self, event: Event) -> None:
        """Prints one line about the phase."""
        self._printed = self.clock()
        self._print("", f"{self.phase_name(event)}: {lines.phase_text(event)}")

    def compiling(self, event: Event) -> None:
        """Prints one line, since a compilation is silent for up to a minute."""
        self._print(f"  {lines.compiling_text(event)}")

    def compiled(self, event: Event) -> None:
        """Prints how long the compilation took."""
        self._print(f"  compiled in {duration(event.get('seconds'))}")

    def progress(self, event: Event) -> None:
        """Prints a line about the running epoch if the phase has been silent for five minutes, as in a long epoch."""
        planned = self.phase.get("train_images") or 0
        if planned and self.clock() - self._printed >= _LONGEST_SILENCE:
            done = 100 * (self.left.images() / planned - event.get("epoch", 0))
            self._epoch_line(event, f"{min(done, 100):.0f} % of its images")

    def epoch(self, event: Event) -> None:
        """Prints a line for the first epoch, the last one and some between, so that the log of 170 epochs is short.

        Between: about ten a phase, if nothing was printed for ten seconds; and any epoch after five minutes of silence.
        """
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
        """Prints one line about an evaluation between epochs (`optim.eval_every_epochs`)."""
        accuracy = tables.number(event.get("logits_top1"))
        self._print(f"  epoch {self.epoch_name(event)}  {event.get('on', 'test')} top1 by logits {accuracy} %")

    def phase_end(self, event: Event) -> None:
        """Prints what the phase reached, and what aligning did."""
        self._print(*(f"  {line}" for line in lines.result_lines(event)))

    def run_end(self, event: Event) -> None:
        """Prints the table of all phases and the summary."""
        self._print("", tables.phase_table(self.results(event)), lines.time_line(event))

    def _epoch_line(self, event: Event, text: str) -> None:
        self._printed = self.clock()
        left = duration(self.left.seconds())
        self._print(f"  epoch {self.epoch_name(event)}  {text}  {left:>8} left")

    def _print(self, *texts: str) -> None:
        # A folder's name must not end a run whose log has an encoding without its letters.
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        text = "\n".join(texts).encode(encoding, "backslashreplace").decode(encoding)
        print(text, file=self._stream, flush=True)
