"""Draws what aligning did: the share of predictions that name the newest classes, and the classifier's norms."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cil_func.report import tables
from cil_func.report.axes import BLUE, GREY, MOST_TICKS, ORANGE, Events, Results, Row, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(results: Results, log: Events) -> "Figure | None":
    """Draws the shares of all aligned phases, and the norms of the last one, before and after aligning.

    results: the content of results.json. log: the run's events.
    Returns the figure, or None if no phase was aligned. If the events have no norms, only the shares are drawn.
    """
    rows = [row for row in results["phases"] if row.get("gamma") is not None]
    if not rows:
        return None
    norms = _last_norms(log, rows[-1])
    figure = new_figure(11.5 if norms else 6.0, 4.4)
    _draw_shares(figure.add_subplot(1, 2 if norms else 1, 1), rows)
    if norms:
        _draw_norms(figure.add_subplot(1, 2, 2), norms, rows[-1])
    figure.suptitle(tables.title(results), fontsize=11)
    return figure


def _draw_shares(axes: "Axes", rows: Sequence[Row]) -> None:
    """Draws the shares before and after as a pair of bars for each phase, and the fair share as a line across.

    rows: the aligned phases, entries of results["phases"].
    """
    xs = range(len(rows))
    before = [100 * (row.get("new_share_before_align") or 0) for row in rows]
    after = [100 * (row.get("new_share") or 0) for row in rows]
    axes.bar([x - 0.2 for x in xs], before, 0.38, color=GREY, label="before aligning")
    axes.bar([x + 0.2 for x in xs], after, 0.38, color=BLUE, label="after aligning")
    fair = [float("nan") if row.get("fair_share") is None else 100 * row["fair_share"] for row in rows]
    axes.hlines(fair, [x - 0.45 for x in xs], [x + 0.45 for x in xs], color=ORANGE, linewidth=2.5,
                label="share of the test images")  # fmt: skip
    stride = -(-len(rows) // MOST_TICKS)
    axes.set_xticks(list(xs)[::stride], [str(row["phase"]) for row in rows][::stride])
    top = max(before + after + [share for share in fair if share == share])
    axes.set(xlabel="phase", ylabel="predictions that name a new class (%)", ylim=(0, 1.3 * top or 1))
    axes.set_xlim(-0.8, max(len(rows) - 0.2, 1.8))  # else a single pair of bars would fill the plot
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.legend(loc="upper right", fontsize=9)
    axes.set_title("share of the newest classes", fontsize=10)


def _draw_norms(axes: "Axes", norms: Mapping[str, Sequence[float]], row: Row) -> None:
    """Draws the norm of each class's row, in the order of learning, and a line where the newest classes begin.

    norms: {"before_align", "after_align"}: a number for each class. row: the phase's entry in results["phases"].
    """
    size = max(2.0, min(6.0, 300 / len(norms["before_align"])))
    before, after = norms["before_align"], norms.get("after_align") or []
    axes.plot(range(len(after)), after, "o", color=BLUE, markersize=size, label="after aligning")
    # as rings around the points, since old rows have the same norm before and after
    axes.plot(range(len(before)), before, "o", color=GREY, markersize=size + 2, fillstyle="none",
              label="before aligning")  # fmt: skip
    first_new = len(before) - row["num_new"] - 0.5
    axes.axvline(first_new, color=ORANGE, linewidth=1.5, linestyle="--", label="newest classes begin")
    axes.locator_params("x", integer=True)
    axes.set(xlabel="class, in order of learning", ylabel="norm of the classifier's row")
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])  # room for the legend above the points
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", fontsize=9)
    gamma = tables.number(row["gamma"], 3)
    axes.set_title(f"class norms in phase {row['phase']}, gamma {gamma}", fontsize=10)


def _last_norms(log: Events, row: Row) -> Mapping[str, Sequence[float]] | None:
    """Returns the norms for `_draw_norms`, from the last "phase_end" event of the row's phase; None if it has none."""
    for event in reversed(log):
        if event.get("event") == "phase_end" and event.get("phase") == row["phase"]:
            norms = event.get("norms") or {}
            return norms if norms.get("before_align") else None
    return None
