"""Figures of chapter 5: features and classifier, pull and push on its rows, their lengths, shares, and calibration."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from cil_func.report.axes import BLUE, GREY, ORANGE, new_figure

LIGHT = "#D9D9D9"


def decoupled(num_old: int, num_new: int) -> Figure:
    """Draws the feature extractor and the classifier, whose rows grow. num_old, num_new: how many rows."""
    figure = new_figure(8.0, 3.4)
    axes = figure.add_subplot()
    _box(axes, 0.0, 1.2, 1.6, 1.6, "images\n(B, 3, H, W)", "white")
    _box(axes, 2.5, 0.9, 2.6, 2.2, "feature extractor\nparams['backbone']\nkept from phase\nto phase", LIGHT, 8)
    _box(axes, 6.0, 1.2, 1.5, 1.6, "features\n(B, D)", "white")
    for row in range(num_old + num_new):
        old, height = row < num_old, 3.6 / (num_old + num_new)
        bottom = 3.8 - (row + 1) * height
        axes.add_patch(
            Rectangle((8.6, bottom), 2.2, height * 0.86, facecolor=LIGHT if old else BLUE, edgecolor="black",
                      hatch=None if old else "//", linewidth=0.8)
        )  # fmt: skip
        axes.text(11.0, bottom + height * 0.43, f"logit {row}", va="center", fontsize=8)
    axes.text(9.7, 3.95, "classifier  W (K, D), b (K,)", ha="center", fontsize=9)
    axes.text(12.3, 3.8 - 3.6 * num_old / (num_old + num_new) / 2, "old rows", va="center", fontsize=9)
    axes.text(12.3, 0.2 + 1.8 * num_new / (num_old + num_new), "new rows,\nadded by expand", va="center", fontsize=9)
    for left, right in ((1.6, 2.5), (5.1, 6.0), (7.5, 8.6)):
        axes.add_patch(FancyArrowPatch((left, 2.0), (right, 2.0), arrowstyle="-|>", mutation_scale=14, color="black"))
    axes.set(xlim=(-0.2, 14.2), ylim=(-0.1, 4.3))
    axes.set_axis_off()
    return figure


def _box(
    axes: Axes, left: float, bottom: float, width: float, height: float, text: str, colour: str, size: int = 9
) -> None:
    axes.add_patch(Rectangle((left, bottom), width, height, facecolor=colour, edgecolor="black"))
    axes.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=size)


def pull_and_push(pull: Sequence[float], push: Sequence[float], num_old: int) -> Figure:
    """Draws how strongly each row is pulled along its own images and pushed off the others.

    pull, push: a number for each class, 0 or more. num_old: how many classes, the first ones, are old.
    """
    figure = new_figure(6.4, 3.4)
    axes, places = figure.add_subplot(), range(len(pull))
    axes.bar(places, pull, color=BLUE, edgecolor="black", label="pull: own images")
    axes.bar(places, [-each for each in push], color=ORANGE, edgecolor="black", hatch="//", label="push: other images")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.axvline(num_old - 0.5, color=GREY, linestyle="--")
    axes.text(num_old - 0.6, axes.get_ylim()[1] * 0.9, "old", ha="right")
    axes.text(num_old - 0.4, axes.get_ylim()[1] * 0.9, "new", ha="left")
    axes.set(xlabel="class, in order of arrival", xticks=places)
    axes.set_ylabel("change of the row's\nlength along the mean feature")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def norms(runs: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws the length of each row before and after aligning in the last phase.

    runs: {title: {"before": K numbers, "after": K numbers, "num_old": how many of them, the first, are old}}.
    """
    figure = new_figure(8.0, 3.6)
    panels = figure.subplots(1, len(runs), sharey=True)
    for axes, (title, found) in zip(panels, runs.items(), strict=True):
        places, num_old = range(len(found["before"])), found["num_old"]
        axes.bar(places, found["after"], color=[GREY] * num_old + [BLUE] * (len(places) - num_old), width=0.7)
        axes.scatter(places, found["before"], color=ORANGE, marker="D", edgecolor="black", zorder=3, s=34)
        axes.axvline(num_old - 0.5, color="black", linestyle=":")
        old_mean = sum(found["after"][:num_old]) / num_old
        axes.axhline(old_mean, color="black", linestyle="--", linewidth=1)
        axes.set(title=title, xlabel="class, in order of arrival", xticks=places)
    panels[0].set_ylabel("length of the row")
    handles = [
        Rectangle((0, 0), 1, 1, color=GREY), Rectangle((0, 0), 1, 1, color=BLUE),
        panels[0].collections[0], panels[0].lines[-1],
    ]  # fmt: skip
    names = ["old rows", "new rows, aligned", "before aligning", "mean length of old rows"]
    figure.legend(handles, names, loc="outside lower center", ncols=4)
    return figure


def shares(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Draws which share of all predictions names a class of the newest phase. runs: {title: rows of results.json}."""
    figure = new_figure(8.0, 3.4)
    panels = figure.subplots(1, len(runs), sharey=True)
    for axes, (title, rows) in zip(panels, runs.items(), strict=True):
        later = [row for row in rows if row["gamma"] is not None]
        places = range(len(later))
        for shift, key, colour, hatch, label in (
            (-0.2, "new_share_before_align", ORANGE, "//", "before aligning"),
            (0.2, "new_share", BLUE, None, "after aligning"),
        ):
            values = [100 * row[key] for row in later]
            bars = axes.bar([at + shift for at in places], values, 0.38, color=colour, hatch=hatch, edgecolor="black")
            bars.set_label(label)
            axes.bar_label(bars, fmt="%.0f", fontsize=8)
        for at, row in zip(places, later, strict=True):
            (line,) = axes.plot([at - 0.45, at + 0.45], [100 * row["fair_share"]] * 2, color="black", linewidth=2.5)
        line.set_label("fair share")
        names = [
            f"phase {row['phase']}\naccuracy\n{row['top1_before_align']:.1f} to {row['top1']:.1f} %" for row in later
        ]
        axes.set(title=title, xticks=list(places), xticklabels=names, ylim=(0, 105))
    panels[0].set_ylabel("predictions of new classes (%)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def reliability(curves: Mapping[str, Sequence[tuple[int, float, float]]]) -> Figure:
    """Draws reliability diagrams, each point as large as its bin, with the number of images beside it.

    curves: {label: (number of images, mean confidence, share that is right) of each bin}.
    """
    figure = new_figure(4.8, 4.0)
    axes = figure.add_subplot()
    axes.plot([0, 100], [0, 100], color="black", linestyle=":", label="calibrated")
    styles = [(ORANGE, "s", "--"), (BLUE, "o", "-")]
    beside = [((8, -12), "left"), ((-7, 6), "right")]  # of a point: its number
    for (label, bins), (colour, marker, line), (shift, side) in zip(curves.items(), styles, beside, strict=False):
        used = [(number, 100 * confidence, 100 * right) for number, confidence, right in bins if number]
        numbers, x, y = zip(*used, strict=True)
        axes.plot(x, y, color=colour, linestyle=line, linewidth=1, alpha=0.5)
        axes.scatter(x, y, [16 + 2 * number for number in numbers], color=colour, marker=marker, label=label)
        for number, across, up in used:
            axes.annotate(
                str(number), (across, up), shift, textcoords="offset points", ha=side, color=colour, fontsize=9
            )
    axes.set(xlabel="mean confidence of the bin (%)", ylabel="right predictions (%)", xlim=(0, 106), ylim=(0, 108))
    axes.legend(frameon=False)
    return figure
