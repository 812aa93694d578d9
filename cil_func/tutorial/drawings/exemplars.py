"""Figures of chapter 3: the replay memory, and herding in two dimensions."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure

from cil_func.report.axes import BLUE, GREEN, ORANGE, new_figure

LIGHT = "#D9D9D9"


def replay(shares: Sequence[Sequence[int]], new: Sequence[int], names: Sequence[str]) -> Figure:
    """Draws what a phase trains on: the memory, class by class, and the new images.

    shares: for each phase the number of exemplars of each old class. new: each phase's number of new images.
    names: of the classes, in order of arrival.
    """
    figure = new_figure(8.0, 3.4)
    memory, all_images = figure.subplots(1, 2, sharey=True, width_ratios=[2, 1])
    for phase, counts in enumerate(shares):
        left = 0
        for label, count in enumerate(counts):
            memory.barh(phase, count, left=left, color=LIGHT, edgecolor="black", linewidth=0.6)
            memory.text(left + count / 2, phase, f"{names[label]}: {count}", ha="center", va="center", fontsize=8)
            left += count
        if not counts:
            memory.text(1, phase, "empty", va="center", fontsize=8)
        all_images.barh(phase, left, color=LIGHT, edgecolor="black", linewidth=0.6)
        all_images.barh(phase, new[phase], left=left, color=BLUE, edgecolor="black", linewidth=0.6)
        all_images.text(left + new[phase] / 2, phase, f"{new[phase]} new", ha="center", va="center", fontsize=9,
                        color="white")  # fmt: skip
    memory.set(title="the memory at the start of a phase", xlabel="exemplars, digit: count", ylabel="phase")
    all_images.set(title="what the phase trains on", xlabel="images")
    memory.set_yticks(range(len(shares)))
    memory.invert_yaxis()
    for axes in (memory, all_images):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def herding(points: torch.Tensor, orders: Mapping[str, Sequence[int]]) -> Figure:
    """Draws choices among points of the plane, and how near the mean of each choice is to the mean of all.

    points: (N, 2). orders: {title: the rows chosen, in order}, two of them.
    """
    figure = new_figure(9.0, 3.4)
    *panels, last = figure.subplots(1, len(orders) + 1, width_ratios=[1.25] * len(orders) + [1])
    mean, styles = points.mean(0), [(BLUE, "o", "-"), (GREEN, "^", ":")]
    for axes, (title, rows), (colour, marker, line) in zip(panels, orders.items(), styles, strict=True):
        axes.scatter(*points.T, s=14, color="#B0B0B0", label="point, not chosen")
        chosen = {"s": 150, "facecolor": "white", "edgecolor": BLUE, "linewidth": 1.6, "zorder": 3}
        axes.scatter(*points[list(rows)].T, label="chosen", **chosen)
        for rank, row in enumerate(rows, 1):
            axes.text(*points[row], str(rank), ha="center", va="center", fontsize=9, zorder=4)
        path = points[list(rows)].cumsum(0) / torch.arange(1, len(rows) + 1)[:, None]
        axes.plot(*path.T, color=ORANGE, marker="s", markersize=3.5, linewidth=1.2, label="mean of the first 1, 2, ...")
        axes.scatter(*mean, marker="*", s=110, color="black", zorder=5, label="mean of all")
        axes.set(title=title, xticks=[], yticks=[])
        axes.set_aspect("equal")
        far = (path - mean).norm(dim=1).tolist()
        last.plot(range(1, len(rows) + 1), far, color=colour, marker=marker, linestyle=line, label=title)
    last.set(title="distance to the star", xlabel="points chosen", ylim=(0, None), xticks=range(1, len(rows) + 1))
    last.grid(alpha=0.25)
    last.legend(frameon=False, fontsize=9)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def distances(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Draws the distance of the chosen images' mean to the mean of all. curves: {label: for 1, 2, ... images}."""
    figure = new_figure(6.4, 3.4)
    axes = figure.add_subplot()
    styles = [(BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", ":")]
    for (label, values), (colour, marker, line) in zip(curves.items(), styles, strict=False):
        axes.plot(
            range(1, len(values) + 1), values, color=colour, marker=marker, markersize=5, linestyle=line, label=label
        )
    axes.set(xlabel="images chosen", ylabel="distance of their mean\nto the mean of all", ylim=(0, None))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


def nearest_mean(counts: Sequence[int], curves: Mapping[str, Sequence[Sequence[float]]], all_images: float) -> Figure:
    """Draws the accuracy of the nearest class mean against the number of exemplars, with the range over draws.

    counts: exemplars of each class. curves: {label: for each count the accuracies of one or more draws, percent}.
    all_images: the accuracy with the means of all images.
    """
    figure = new_figure(6.4, 3.4)
    axes = figure.add_subplot()
    styles = [(BLUE, "o", "-"), (ORANGE, "s", "--"), (GREEN, "^", ":")]
    places = range(len(counts))
    for (label, values), (colour, marker, line) in zip(curves.items(), styles, strict=False):
        middle = [sum(each) / len(each) for each in values]
        axes.plot(places, middle, color=colour, marker=marker, markersize=5, linestyle=line, label=label)
        axes.fill_between(places, list(map(min, values)), list(map(max, values)), color=colour, alpha=0.15, linewidth=0)
    axes.axhline(all_images, color="black", linewidth=0.8, linestyle="-.", label="means of all images")
    axes.set(xlabel="exemplars of each class", ylabel="accuracy by nearest mean (%)")
    axes.set_xticks(places, [str(count) for count in counts])
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    return figure
