"""Figures of chapter 6: what is trained and what is frozen, models trained together, batches shared by processes."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from cil_func.report.axes import BLUE, GREEN, GREY, ORANGE, new_figure

LIGHT = "#D9D9D9"


def frozen(sizes: Mapping[str, int], trained: Sequence[str]) -> Figure:
    """Draws the parts of params. sizes: {path: how many numbers}. trained: the paths that are differentiated."""
    figure = new_figure(6.8, 2.9)
    axes, all_numbers = figure.add_subplot(), sum(sizes.values())
    for place, (path, size) in enumerate(sizes.items()):
        chosen = path in trained
        axes.barh(place, size, color=BLUE if chosen else LIGHT, edgecolor="black", hatch="//" if chosen else None)
        says = f"  {size:,} ({100 * size / all_numbers:.1f} %): {'differentiated' if chosen else 'frozen'}"
        axes.text(size, place, says, va="center", color=BLUE if chosen else "black")
    axes.set(yticks=range(len(sizes)), yticklabels=list(sizes), xlabel="numbers", xlim=(0, max(sizes.values()) * 1.5))
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def seeds(steps: Sequence[int], accuracies: torch.Tensor) -> Figure:
    """Draws the accuracies of models that differ in their seeds. accuracies: (steps, models), percent."""
    figure = new_figure(5.6, 3.2)
    axes = figure.add_subplot()
    axes.plot(steps, accuracies.numpy(), color=GREY, linewidth=0.8)
    axes.plot(steps, accuracies.mean(1).numpy(), color=BLUE, linewidth=2.2, label="mean")
    axes.plot([], [], color=GREY, linewidth=0.8, label="one seed")
    axes.set(xlabel="step", ylabel="test accuracy (%)")
    axes.legend(frameon=False, loc="lower right")
    axes.grid(alpha=0.25)
    return figure


def processes(batch_size: int, norm_batch: int, slices: Mapping[str, Sequence[slice]]) -> Figure:
    """Draws which images of a batch each process has. slices: {title: the places of each process}."""
    figure = new_figure(7.6, 2.4)
    panels = figure.subplots(len(slices), 1, sharex=True)
    colours, hatches = (BLUE, ORANGE, GREY, LIGHT), (None, "//", "..", "xx")
    for axes, (title, parts) in zip(panels, slices.items(), strict=True):
        for rank, part in enumerate(parts):
            _images(axes, part, norm_batch, colours[rank], hatches[rank])
            axes.text((part.start + part.stop) / 2, 1.15, f"process {rank}", ha="center", fontsize=9)
        axes.set(xlim=(0, batch_size), ylim=(0, 1.6), yticks=[])
        axes.set_ylabel(title, rotation=0, ha="right", va="center")
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[-1].set_xlabel(f"images of one batch; a frame is a group of {norm_batch} that share statistics")
    return figure


def _images(axes: Axes, part: slice, norm_batch: int, colour: str, hatch: str | None) -> None:
    """Draws the images of one process, and a frame around each norm group."""
    for start in range(part.start, part.stop, norm_batch):
        width = min(norm_batch, part.stop - start)
        axes.add_patch(
            Rectangle((start + 0.15, 0.1), width - 0.3, 0.9, facecolor=colour, hatch=hatch, edgecolor="black")
        )


def loop(accuracies: Sequence[float], by_phase: Sequence[Sequence[float]]) -> Figure:
    """Draws top-1 after each phase, on all classes seen and on those of each phase, in percent.

    accuracies: on all classes seen. by_phase: row i has those after phase i on the classes of phases 0 to i.
    """
    figure = new_figure(6.0, 3.2)
    axes, phases = figure.add_subplot(), range(len(accuracies))
    styles = ((ORANGE, "s", "--"), (GREEN, "^", "-."), (GREY, "v", ":"))
    for phase, (colour, marker, line) in zip(phases, styles, strict=False):
        values = [row[phase] for row in by_phase[phase:]]
        label = f"on classes of phase {phase}"
        axes.plot(phases[phase:], values, color=colour, marker=marker, linestyle=line, label=label)
    axes.plot(phases, accuracies, color=BLUE, marker="o", linewidth=2.2, label="on all classes seen")
    axes.set(xlabel="after phase", ylabel="accuracy (%)", ylim=(0, 104), xticks=phases)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower left", fontsize=9)
    return figure
