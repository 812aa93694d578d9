"""What both kinds of console share."""

from collections.abc import Callable, Mapping
from typing import Any

from cil_func.report import lines
from cil_func.report.time_left import TimeLeft

Event = Mapping[str, Any]

_SHOWN = frozenset({
    "run_start", "resume", "warning", "phase_start", "stage_start", "compiling", "compiled", "progress", "epoch",
    "evaluation", "phase_end", "run_end", "data_stall",
})  # fmt: skip


class Console:
    """What both consoles share. A subclass has one method for each kind of event that it shows, named like the kind.

    Call it with each event, see `__call__`. It is a context manager, which calls `close` at the end.
    clock: a function that returns seconds. left: estimates the time left.
    run: the newest "run_start" or "resume" event, {} before. phase: the newest "phase_start" event, {} before.
    rows: the "phase_end" events so far.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.left = TimeLeft(clock)
        self.run: Event = {}
        self.phase: Event = {}
        self.rows: list[Event] = []

    def __call__(self, event: Event) -> None:
        """Shows one event, and remembers it. An event of an unknown kind shows nothing."""
        self.remember(event)
        kind = event.get("event")
        if kind in _SHOWN:
            getattr(self, kind)(event)

    def remember(self, event: Event) -> None:
        """Remembers an event without showing it. Call it with the earlier events of a run that is resumed."""
        self.left(event)
        kind = event.get("event")
        if kind in ("run_start", "resume"):
            self.run = event
        elif kind == "phase_start":
            self.phase = event
        elif kind == "phase_end":
            self.rows.append(event)

    def stage_start(self, event: Event) -> None:
        """Prints one line about a later training of a phase."""
        self._print(f"  stage {event.get('stage', '-')}: {lines.images_text(event)}")

    def warning(self, event: Event) -> None:
        """Prints one line about something that doesn't stop the run."""
        self._print(f"warning: {event.get('message', '-')}")

    def data_stall(self, event: Event) -> None:
        """Prints one line about a training that waits for its images."""
        self._print(f"  {event.get('message', '-')}")

    def close(self) -> None:
        """Removes the live bar, if there is one. Call it before anything else is printed; it may be called twice."""

    def __enter__(self) -> "Console":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def phase_name(self, event: Event) -> str:
        """Returns an event's phase as "phase 0 (1/5)"; as "phase 0" if the number of phases is unknown."""
        index, count = event.get("phase", 0), len(self.run.get("phases") or [])
        return f"phase {index} ({index + 1}/{count})" if count else f"phase {index}"

    def epoch_name(self, event: Event) -> str:
        """Returns an event's epoch as " 3/40", counted from 1. Within a phase all these texts have the same width."""
        count = str(event.get("epochs") or self.phase.get("epochs") or "-")
        return f"{event.get('epoch', 0) + 1:>{len(count)}}/{count}"

    def results(self, end: Event) -> dict[str, Any]:
        """Returns what the events contain of results.json: the fields of `end`, a "run_end" event, and the phases."""
        config = {"data": {"tests_on": end.get("tests_on", "test")}}
        return {**end, "config": config, "phases": self.rows}

    def _print(self, *texts: str) -> None:
        raise NotImplementedError
