"""Figures of chapter 8: accuracies of methods over seeds, what moves published numbers, a method of one's own."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from cil_func.report.axes import BLUE, GREEN, GREY, ORANGE, new_figure

BLACK, PURPLE = "#000000", "#CC79A7"
STYLES = {  # colour, marker, line of each method
    "joint": (BLACK, "", "--"),
    "icarl": (GREEN, "D", "-"),
    "wa": (BLUE, "o", "-"),
    "replay": (ORANGE, "s", "-"),
    "lwf": (PURPLE, "v", "-."),
    "finetune": (GREY, "^", ":"),
}


def curves(methods: Mapping[str, Sequence[Mapping[str, Any]]], seen: Sequence[int]) -> Figure:
    """Draws top-1 after each phase, a panel for each method: the mean over seeds, and a band from lowest to highest.

    methods: {name: a dict with "top1" for each seed}. seen: how many classes are seen after each phase.
    """
    figure = new_figure(8.6, 4.8)
    panels = figure.subplots(-(-len(methods) // 3), 3, sharex=True, sharey=True)
    by_phase = {name: list(zip(*(run["top1"] for run in runs), strict=True)) for name, runs in methods.items()}
    means = {name: [sum(values) / len(values) for values in phases] for name, phases in by_phase.items()}
    for axes, (name, phases) in zip(panels.flat, by_phase.items(), strict=False):
        for other in means.keys() - {name}:
            axes.plot(seen, means[other], color="#C8C8C8", linewidth=0.9, zorder=1)
        colour, marker, line = STYLES[name]
        axes.fill_between(seen, list(map(min, phases)), list(map(max, phases)), color=colour, alpha=0.3, linewidth=0)
        axes.plot(seen, means[name], color=colour, marker=marker, linestyle=line, linewidth=2)
        axes.annotate(f"{means[name][-1]:.0f}", (seen[-1], means[name][-1]), textcoords="offset points", xytext=(-2, 8),
                      ha="right", fontsize=10, weight="bold")  # fmt: skip
        axes.set(title=name, ylim=(0, 112), xticks=list(seen), yticks=range(0, 101, 25))
        axes.grid(alpha=0.25)
    figure.supxlabel("classes seen", fontsize=10)
    figure.supylabel("accuracy on all classes seen (%)", fontsize=10)
    return figure


def moves(pairs: Mapping[str, tuple[str, float, str, float]]) -> Figure:
    """Draws what a choice beside the method does to a published average.

    pairs: {choice: (label, accuracy, label, accuracy)}.
    """
    figure = new_figure(7.4, 2.6)
    axes = figure.add_subplot()
    for place, (first, low, second, high) in enumerate(pairs.values()):
        axes.plot([low, high], [place, place], color="black", linewidth=1.5, zorder=1)
        axes.scatter([low], [place], color=ORANGE, marker="s", s=60, zorder=2)
        axes.scatter([high], [place], color=BLUE, marker="o", s=60, zorder=2)
        axes.text(low, place - 0.28, f"{first}: {low:.1f}", ha="right", va="bottom", fontsize=9)
        axes.text(high, place - 0.28, f"{second}: {high:.1f}", ha="left", va="bottom", fontsize=9)
    axes.set(yticks=range(len(pairs)), yticklabels=list(pairs), xlabel="average incremental accuracy (%)")
    axes.set(xlim=(54, 84), ylim=(len(pairs) - 0.5, -0.8))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def powers(top1: Mapping[str, Sequence[float]]) -> Figure:
    """Draws top-1 after each phase of variants of a method. top1: {label: percent for each phase}."""
    figure = new_figure(5.6, 3.2)
    axes = figure.add_subplot()
    styles = [(GREY, "^", ":"), (BLUE, "o", "-"), (ORANGE, "s", "--")]
    for (label, values), (colour, marker, line) in zip(top1.items(), styles, strict=False):
        axes.plot(range(len(values)), values, color=colour, marker=marker, linestyle=line, label=label)
    axes.set(xlabel="phase", ylabel="top-1 (%)", xticks=range(len(values)), ylim=(60, 102))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower left")
    return figure
