"""Makes all files of a report: the table and the pictures, as bytes."""

from collections.abc import Callable

from cil_func.errors import printable
from cil_func.report import alignment, figures, tables
from cil_func.report.axes import Events, Results, png


def make(results: Results, log: Events, *, warn: Callable[[str], None] | None = None) -> dict[str, bytes | None]:
    """Returns {file name: its content} of a report; None for a picture that this run doesn't have.

    results: the content of results.json; log: the run's events. table.md, accuracy.png and matrix.png are always made,
    alignment.png if a phase was aligned, loss.png if an event has a loss.
    warn: called with one line for each reason why files can't be made. These files are missing in the dict, and the
    others are made. If it is None, the first failure is raised.
    """
    makers: dict[str, Callable[[], bytes | None]] = {
        "table.md": lambda: tables.markdown(results).encode(),
        "accuracy.png": lambda: png(figures.accuracy(results)),
        "matrix.png": lambda: png(figures.matrix(results)),
        "alignment.png": lambda: png(alignment.draw(results, log)),
        "loss.png": lambda: png(figures.loss(results, log)),
    }
    made: dict[str, bytes | None] = {}
    failed: dict[str, list[str]] = {}
    for name, maker in makers.items():
        try:
            made[name] = maker()
        except Exception as error:
            if warn is None:
                raise
            failed.setdefault(f"{type(error).__name__}: {error}", []).append(name)
    for reason, names in failed.items():
        assert warn, "without it the first failure was raised"
        warn(printable(f"{', '.join(names)} can't be drawn ({reason})"))
    return made
