"""Figures of chapter 2: forgetting by phase and class, and its two causes."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from cil_func.report.axes import BLUE, ORANGE, new_figure


def by_class(accuracies: Mapping[str, Sequence[Sequence[float]]], names: Sequence[str]) -> Figure:
    """Draws the accuracy of each class after each phase, a panel for each learner.

    accuracies: {title: rows}; row i has the accuracies of the classes seen after phase i, in order of arrival, percent.
    names: of all classes, in order of arrival.
    """
    figure = new_figure(8.0, 3.2)
    panels = figure.subplots(1, len(accuracies), sharey=True)
    image = None
    for axes, (title, rows) in zip(panels, accuracies.items(), strict=True):
        width = max(map(len, rows))
        padded = [[*row, *[math.nan] * (width - len(row))] for row in rows]
        image = axes.imshow(padded, vmin=0, vmax=100, cmap="viridis", aspect="auto")
        for i, row in enumerate(rows):
            for j, value in enumerate(row):
                colour = "black" if value > 60 else "white"
                axes.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)
        axes.set(title=title, xlabel="digit, in order of arrival", yticks=range(len(rows)))
        axes.set_xticks(range(width), names[:width])
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("after phase")
    if image:
        figure.colorbar(image, ax=panels, label="accuracy (%)", pad=0.02)
    return figure


def by_old_images(kept: Sequence[int], curves: Mapping[str, Sequence[float]], fair: float) -> Figure:
    """Draws measures of a phase against the number of images that each old class has in it.

    kept: these numbers. curves: {label: a percentage for each}. fair: the new classes' share of the test images.
    """
    figure = new_figure(6.6, 3.5)
    axes = figure.add_subplot()
    styles = [(BLUE, "o", "-"), (ORANGE, "s", "--"), ("black", "^", "-.")]
    for (label, values), (colour, marker, line) in zip(curves.items(), styles, strict=False):
        axes.plot(range(len(kept)), values, color=colour, marker=marker, markersize=5, linestyle=line, label=label)
    axes.axhline(fair, color="black", linewidth=0.8, linestyle=":")
    axes.text(len(kept) - 1, fair - 2, "fair share", ha="right", va="top", fontsize=9)
    axes.set(xlabel="training images of each old class", ylabel="percent", ylim=(0, 103))
    axes.set_xticks(range(len(kept)), [str(count) for count in kept])
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="center right", fontsize=9)
    return figure
