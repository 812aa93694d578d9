"""Draws what aligning did: the share of predictions that name the newest classes, and the classifier's norms.

Both figures exist for methods without aligning too, since they show why it was invented.
"""

from typing import TYPE_CHECKING

from cil_func.report import tables
from cil_func.report.axes import (
    BLUE,
    GREY,
    MOST_TICKS,
    ORANGE,
    Events,
    Results,
    class_names,
    drawn_title,
    last_ends,
    mark_phases,
    new_figure,
    phase_sizes,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def shares(results: Results) -> "Figure | None":
    """Draws the share of predictions that name a new class: bars for each later phase, the fair share as a line across.

    results: the content of results.json. Aligned phases have two bars, before and after.
    Returns None if there is no later phase.
    """
    rows = [row for row in results["phases"] if row.get("old_top1") is not None]
    if not rows:
        return None
    figure = new_figure(7.0, 4.4)
    axes = figure.add_subplot()
    xs = range(len(rows))
    aligned = any(row.get("new_share_before_align") is not None for row in rows)
    before = [100 * (row.get("new_share_before_align") or 0) for row in rows] if aligned else []
    after = [100 * (row.get("new_share") or 0) for row in rows]
    if aligned:
        axes.bar([x - 0.2 for x in xs], before, 0.38, color=GREY, hatch="//", edgecolor="white",
                 label="before aligning")  # fmt: skip
    axes.bar([x + 0.2 * aligned for x in xs], after, 0.38, color=BLUE, label="after aligning" if aligned else "share")
    fair = [float("nan") if row.get("fair_share") is None else 100 * row["fair_share"] for row in rows]
    axes.hlines(fair, [x - 0.45 for x in xs], [x + 0.45 for x in xs], color=ORANGE, linewidth=2.5,
                label="fair: share of the images")  # fmt: skip
    stride = -(-len(rows) // MOST_TICKS)
    axes.set_xticks(list(xs)[::stride], [str(row["phase"]) for row in rows][::stride])
    top = max(before + after + [share for share in fair if share == share])
    axes.set(xlabel="phase", ylabel="predictions that name a new class (%)", ylim=(0, 1.25 * top or 1))
    axes.set_xlim(-0.8, max(len(rows) - 0.2, 1.8))  # else a single pair of bars would fill the plot
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    axes.set_title(drawn_title(results), fontsize=10)
    return figure


def norms(results: Results, log: Events) -> "Figure | None":
    """Draws the norm of each class's row after the last phase, and before it was aligned, in order of arrival.

    results: the content of results.json. log: the run's events. Returns None if they have no norms of that phase.
    """
    row = results["phases"][-1]
    found = last_ends(log).get(row["phase"], {}).get("norms") or {}
    before, after = found.get("before_align") or [], found.get("after_align") or []
    if not after:
        return None
    figure = new_figure(8.5, 4.4)
    axes = figure.add_subplot()
    aligned = row.get("gamma") is not None
    size = max(2.5, min(6.0, 300 / len(after)))
    axes.plot(range(len(after)), after, "o", color=BLUE, markersize=size,
              label="after aligning" if aligned else "norm")  # fmt: skip
    if aligned:  # as rings around the points, since old rows have the same norm before and after
        axes.plot(range(len(before)), before, "o", color=ORANGE, markersize=size + 3, fillstyle="none",
                  label="before aligning")  # fmt: skip
        axes.legend(loc="upper left", fontsize=9)
    mark_phases(axes, phase_sizes(results), class_names(results))
    axes.set_ylabel("norm of the class's row of the classifier")
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # room for the legend above the points
    axes.grid(axis="y", alpha=0.25)
    gamma = f", gamma {tables.number(row['gamma'], 3)}" if aligned else ""
    axes.set_title(f"{drawn_title(results)}, after phase {row['phase']}{gamma}", fontsize=10)
    return figure
