"""Draws the pictures of accuracy and of the accuracy matrix. Axes of accuracies are in percent."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cil_func.report import number_places, published, tables
from cil_func.report.axes import (
    BLUE,
    GREEN,
    GREY,
    MOST_TICKS,
    ORANGE,
    Results,
    Row,
    drawn_title,
    new_figure,
    set_ticks,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NUMBER_WIDTH = 0.07  # of a number in accuracy.svg, as a part of the distance from the first point to the last


def accuracy(results: Results) -> "Figure":
    """Draws top-1 by logits, by nearest class mean and before aligning, against the number of classes seen.

    results: the content of results.json. A curve that no phase has values of is left out. With more than ten phases the
    points have no numbers. Published accuracies of the method are lines across, if the run's protocol was published.
    """
    figure = new_figure(7.5, 5.2)
    axes = figure.add_subplot()
    phases = results["phases"]
    seen = [row["classes_seen"] for row in phases]
    curves = [
        _curve(axes, seen, phases, "top1_before_align", color=GREY, marker="v", linestyle=":",
               label="top-1 before aligning"),
        _curve(axes, seen, phases, "nme_top1", color=ORANGE, marker="s", linestyle="--",
               label="nearest class mean (NME)"),
        _curve(axes, seen, phases, "top1", color=BLUE, marker="o", label="top-1"),
    ]  # fmt: skip
    published_lines = _reference_lines(axes, results)
    if len(phases) <= MOST_TICKS // 2:
        lines = [*curves, *([(seen[0], value), (seen[-1], value)] for value in published_lines)]
        heights = number_places.heights(curves[-1], lines, width=_NUMBER_WIDTH * (seen[-1] - seen[0]))
        for (x, value), height in zip(curves[-1], heights, strict=True):
            axes.text(x, height, f"{value:.1f}", ha="center", va="center", fontsize=9, color=BLUE)
    axes.set(xlabel="classes seen", ylabel="accuracy on all classes seen (%)", ylim=(0, 112), yticks=range(0, 101, 20))
    set_ticks(axes, seen)
    axes.grid(alpha=0.25)
    legend = (part[::-1] for part in axes.get_legend_handles_labels())
    figure.legend(*legend, loc="outside lower center", ncols=3)  # inside the axes it may cover a curve
    average = tables.number(results.get("average_incremental_accuracy"))
    axes.set_title(f"{drawn_title(results)}\naverage incremental accuracy {average} %")
    return figure


def matrix(results: Results) -> "Figure":
    """Draws the accuracy matrix as a heat map with its numbers: a row for each phase, columns for its classes.

    results: the content of results.json. With more than 40 phases there are no numbers.
    """
    import numpy as np

    rows = results.get("accuracy_matrix") or [row["per_phase_top1"] for row in results["phases"]]
    count = len(rows)
    values = np.full((count, count), np.nan)
    for index, row in enumerate(rows):
        values[index, : len(row)] = [np.nan if value is None else value for value in row]
    side = min(13.0, max(3.2, 0.48 * count))
    figure = new_figure(side + 1.9, side + 1.0)
    axes = figure.add_subplot()
    image = axes.imshow(values, vmin=0, vmax=100, cmap="viridis")
    size = max(4.0, min(10.0, 19 * side / count))
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value) and count <= 2 * MOST_TICKS:  # more numbers would be too small to read
            colour = "black" if value > 60 else "white"
            axes.text(j, i, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=size)
    ticks = range(0, count, -(-count // MOST_TICKS))
    axes.set(xlabel="classes of phase", ylabel="after phase", xticks=ticks, yticks=ticks)
    axes.set_title(drawn_title(results), fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.colorbar(image, ax=axes, label="top-1 accuracy (%)", fraction=0.046, pad=0.03)
    return figure


def _reference_lines(axes: "Axes", results: Results) -> list[float]:
    """Draws the published average and last accuracy of the run's method, if there are some, and returns them."""
    found = published.of_method(published.protocol_of(results), results.get("method", ""))
    if found is None:
        return []
    about = "~" * found.uncertain
    for value, what, dash in ((found.average, "average", (0, (6, 3))), (found.last, "last", (0, (1, 2)))):
        if value is not None:
            axes.axhline(value, color=GREEN, linewidth=1.3, linestyle=dash,
                         label=f"published {what}: {about}{value:.1f}")  # fmt: skip
    return [value for value in (found.average, found.last) if value is not None]


def _curve(
    axes: "Axes", seen: Sequence[int], phases: Sequence[Row], key: str, **style: Any
) -> list[number_places.Point]:
    """Draws one measure over the phases that have it. Returns its points (x, percent).

    seen: the x of each phase. phases: results["phases"]. key: the measure's name there. style: of matplotlib's plot.
    """
    having = [(x, row) for x, row in zip(seen, phases, strict=True) if row.get(key) is not None]
    points: list[number_places.Point] = [(x, row[key]) for x, row in having]
    if points:
        axes.plot(*zip(*points, strict=True), markersize=5, **style)
    return points
