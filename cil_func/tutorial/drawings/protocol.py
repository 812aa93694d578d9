"""Figures of chapter 1: the protocol, its measures, and online learning."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from cil_func.report.axes import BLUE, ORANGE, new_figure

LIGHT = "#D9D9D9"


def phases(protocols: Mapping[str, Sequence[int]]) -> Figure:
    """Draws which classes are new, old and unseen in each phase. protocols: {title: the phases' numbers of classes}."""
    figure = new_figure(8.0, 3.9)
    for place, (title, sizes) in enumerate(protocols.items(), 1):
        axes = figure.add_subplot(1, len(protocols), place)
        _phases(axes, sizes)
        axes.set_title(title)
    kinds = [
        Patch(facecolor=BLUE, label="new: all images"),
        Patch(facecolor=LIGHT, edgecolor="black", hatch="..", label="old: a few exemplars"),
        Patch(facecolor="white", edgecolor="black", label="not seen yet"),
    ]
    figure.legend(handles=kinds, loc="outside lower center", ncols=3)
    return figure


def _phases(axes: Axes, sizes: Sequence[int]) -> None:
    """Draws one protocol: a row for each phase, the classes in order of arrival from left to right."""
    total, seen = sum(sizes), 0
    for phase, new in enumerate(sizes):
        axes.barh(phase, seen, color=LIGHT, edgecolor="black", linewidth=0.6, hatch="..")
        axes.barh(phase, new, left=seen, color=BLUE, edgecolor="black", linewidth=0.6)
        seen += new
        left = total - seen
        axes.barh(phase, left, left=seen, color="white", edgecolor="black", linewidth=0.6, clip_on=False)
        axes.text(total * 1.02, phase, f"tested on {seen}", va="center", fontsize=8)
    axes.set(xlabel="classes, in order of arrival", ylabel="phase", yticks=range(len(sizes)), xlim=(0, total))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)


def measures(matrix: Sequence[Sequence[float]], top1: Sequence[float]) -> Figure:
    """Draws an accuracy matrix with what its measures read.

    matrix: row i has the accuracies after phase i on the classes of phases 0 to i, percent. top1: after each phase, on
    all classes seen.
    """
    count = len(matrix)
    figure = new_figure(6.4, 3.9)
    axes = figure.add_subplot()
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            best = i < count - 1 and value == max(matrix[k][j] for k in range(j, count - 1))
            forgot = i == count - 1 and j < count - 1
            colour = ORANGE if forgot else BLUE if best else "black"
            weight = "bold" if forgot or best else "normal"
            axes.text(j, i, f"{value:.0f}", ha="center", va="center", color=colour, weight=weight, fontsize=13)
            axes.add_patch(_frame(j, i, colour if weight == "bold" else LIGHT, "--" if forgot else "-"))
        axes.text(count + 0.3, i, f"{top1[i]:g}", ha="center", va="center", fontsize=13)
    axes.text(count + 0.3, -0.85, "all classes\nseen", ha="center", va="center", fontsize=9)
    axes.text(count + 0.9, count - 1, "this one: last accuracy", va="center", fontsize=9)
    axes.annotate("", (count + 0.62, -0.35), (count + 0.62, count - 0.65), arrowprops={"arrowstyle": "-"})
    axes.annotate("", (count + 0.62, (count - 2) / 2), (count + 0.85, (count - 2) / 2), arrowprops={"arrowstyle": "-"})
    axes.text(count + 0.9, (count - 2) / 2, "mean of the column:\naverage accuracy", va="center", fontsize=9)
    note = "forgetting: mean of (best earlier, solid frame) - (final, dashed frame)"
    axes.set(xlim=(-0.6, count + 3.2), ylim=(count - 0.2, -1.3), xticks=range(count), yticks=range(count))
    axes.set(xlabel=f"classes of phase\n\n{note}", ylabel="after phase")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def _frame(column: int, row: int, colour: str, line: str) -> Rectangle:
    """Returns a rectangle around a number of the matrix."""
    return Rectangle((column - 0.42, row - 0.36), 0.84, 0.72, fill=False, edgecolor=colour, linestyle=line, linewidth=2)


def online(counts: Sequence[int], curves: Mapping[str, Sequence[float]]) -> Figure:
    """Draws accuracies while images arrive. counts: images seen so far. curves: {label: an accuracy for each count}."""
    figure = new_figure(6.4, 3.4)
    axes = figure.add_subplot()
    styles = [(BLUE, "o", "-"), (ORANGE, "s", "--"), ("black", "^", ":")]
    for (label, values), (colour, marker, line) in zip(curves.items(), styles, strict=False):
        axes.plot(counts, values, color=colour, marker=marker, markersize=4, linestyle=line, label=label)
    axes.set(xlabel="images seen, one at a time", ylabel="test accuracy, all 10 classes (%)", ylim=(0, 103))
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 0.12), frameon=False, fontsize=9)
    return figure
