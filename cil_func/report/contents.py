"""Makes all files of a run's report: the table, the pictures and the page that holds them all, as bytes."""

from collections.abc import Callable

from cil_func.errors import printable
from cil_func.report import alignment, by_class, curves, figures, page, reliability, tables
from cil_func.report.axes import svg
from cil_func.report.material import Material

# Pictures of earlier versions, which would be out of date beside the new ones.
_OUTDATED = ("accuracy.png", "matrix.png", "alignment.png", "loss.png")


def make(run: Material, *, warn: Callable[[str], None] | None = None) -> dict[str, bytes | None]:
    """Returns {file name: its content} of a report; None for a picture that this run doesn't have.

    run: the content of the run's files. table.md, accuracy.svg, matrix.svg and report.html are always made.
    warn: called with one line for each reason why files can't be made. These files are missing in the dict, and the
    others are made. If it is None, the first failure is raised.
    """
    results, log = run.results, run.log
    made: dict[str, bytes | None] = dict.fromkeys(_OUTDATED)
    makers: dict[str, Callable[[], bytes | None]] = {
        "table.md": lambda: tables.markdown(results).encode(),
        "accuracy.svg": lambda: svg(figures.accuracy(results), "accuracy"),
        "matrix.svg": lambda: svg(figures.matrix(results), "matrix"),
        "forgetting.svg": lambda: svg(by_class.forgetting(results), "forgetting"),
        "confusion.svg": lambda: svg(by_class.confusion(results, log), "confusion"),
        "classes.svg": lambda: svg(by_class.accuracy(results, log), "classes"),
        "shares.svg": lambda: svg(alignment.shares(results), "shares"),
        "norms.svg": lambda: svg(alignment.norms(results, log), "norms"),
        "reliability.svg": lambda: svg(reliability.draw(results), "reliability"),
        "loss.svg": lambda: svg(curves.draw(results, log, curves.LOSS), "loss"),
        "rates.svg": lambda: svg(curves.draw(results, log, curves.RATES), "rates"),
        "steps.svg": lambda: svg(curves.draw(results, log, curves.STEPS), "steps"),
        page.FILE: lambda: page.make(run, made),
    }
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
