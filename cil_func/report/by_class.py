"""Draws and lists how single classes fare: confusion, accuracy of each class, and what each phase's classes forget."""

from typing import TYPE_CHECKING, Any

from cil_func.report import tables
from cil_func.report.axes import (
    BLUE,
    MOST_NAMES,
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
    tick_name,
)

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_NUMBERS = 20  # classes up to which a confusion matrix has numbers in its cells


def counts_of(results: Results, log: Events) -> "np.ndarray | None":
    """Returns the last phase's confusion matrix, (K, K) counts [class, what it was taken for]; None without one."""
    import numpy as np

    seen = results["phases"][-1]["classes_seen"]
    pairs = last_ends(log).get(results["phases"][-1]["phase"], {}).get("confusion")
    if not pairs:
        return None
    counts = np.zeros((seen, seen), dtype=int)
    for target, named, count in pairs:
        counts[target, named] = count
    return counts


def confusion(results: Results, log: Events) -> "Figure | None":
    """Draws the confusion matrix after the last phase, in percent of each class's images, with the phases' borders.

    results: the content of results.json. log: the run's events. Returns None if they have no confusion.
    """
    import numpy as np
    from matplotlib.colors import PowerNorm

    counts = counts_of(results, log)
    if counts is None:
        return None
    percent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(4.5, min(8.5, 0.5 * len(counts)))
    figure = new_figure(side + 1.8, side + 0.9)
    axes = figure.add_subplot()
    # The square root makes errors of one percent visible beside a diagonal of eighty.
    image = axes.imshow(percent, cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
    for (i, j), value in np.ndenumerate(percent):
        if len(counts) <= _MOST_NUMBERS and value:
            axes.text(j, i, f"{value:.0f}" if value >= 0.5 else "<1", ha="center", va="center", fontsize=8,
                      color="white" if value > 35 else "black")  # fmt: skip
    _mark_both(axes, results)
    axes.set(xlabel="predicted class", ylabel="true class")
    figure.colorbar(image, ax=axes, ticks=[0, 1, 5, 20, 50, 100], label="% of the class's images",
                    fraction=0.046, pad=0.03)  # fmt: skip
    axes.set_title(drawn_title(results), fontsize=10)
    return figure


def _mark_both(axes: "Axes", results: Results) -> None:
    """Draws the phases' borders in a confusion matrix, and names its classes, or its phases if they are many."""
    sizes, names = phase_sizes(results), [tick_name(name) for name in class_names(results)]
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    for start in starts[1:]:
        axes.axhline(start - 0.5, color=ORANGE, linewidth=0.9)
        axes.axvline(start - 0.5, color=ORANGE, linewidth=0.9)
    if len(names) <= MOST_NAMES:
        ticks: list[float] = list(range(len(names)))
    else:
        ticks = [start + (size - 1) / 2 for start, size in zip(starts, sizes, strict=True)]
        ticks = ticks[:: -(-len(ticks) // MOST_TICKS)]
        names = [f"phase {index}" for index in range(len(sizes))][:: -(-len(sizes) // MOST_TICKS)]
    axes.set_xticks(ticks, names, rotation=90 if max(map(len, names)) > 2 else 0)
    axes.set_yticks(ticks, names)


def accuracy(results: Results, log: Events) -> "Figure | None":
    """Draws the accuracy of each class after the phase that brought it and after the last one, in order of arrival.

    results: the content of results.json. log: the run's events. Returns None if they have no accuracies of classes.
    """
    learned, now = class_accuracies(results, log)
    if not any(value is not None for value in now):
        return None
    figure = new_figure(8.5, 4.4)
    axes = figure.add_subplot()
    size = max(2.5, min(6.0, 300 / len(now)))
    for x, (first, last) in enumerate(zip(learned, now, strict=True)):
        if first is not None and last is not None:
            axes.plot([x, x], [first, last], color=BLUE, linewidth=1, alpha=0.5)
    gap = float("nan")
    axes.plot(range(len(now)), [gap if value is None else value for value in learned], "o", color=ORANGE,
              markersize=size + 2, fillstyle="none", label="when it was learned")  # fmt: skip
    axes.plot(range(len(now)), [gap if value is None else value for value in now], "o", color=BLUE, markersize=size,
              label="after the last phase")  # fmt: skip
    mark_phases(axes, phase_sizes(results), class_names(results))
    axes.set(ylabel="accuracy of the class (%)", ylim=(-3, 103))
    axes.grid(axis="y", alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    axes.set_title(drawn_title(results), fontsize=10)
    return figure


def class_accuracies(results: Results, log: Events) -> tuple[list[float | None], list[float | None]]:
    """Returns two lists with a number for each class: its accuracy when it was learned, and after the last phase.

    In percent, in order of arrival; None where the events don't have it.
    """
    ends, seen, first = last_ends(log), results["phases"][-1]["classes_seen"], results["phases"][0]
    learned: list[float | None] = [None] * (first["classes_seen"] - first["num_new"])
    for row in results["phases"]:
        found = ends.get(row["phase"], {}).get("class_top1") or [None] * row["classes_seen"]
        learned += found[row["classes_seen"] - row["num_new"] :]
    now = ends.get(results["phases"][-1]["phase"], {}).get("class_top1") or [None] * seen
    return learned, now


def class_rows(results: Results, log: Events) -> list[list[Any]]:
    """Returns a row for each class: number, name, phase, accuracy when learned, accuracy now, change, taken for.

    "taken for" is the most frequent wrong prediction, as "NAME (12 %)"; "" if there is none.
    """
    learned, now = class_accuracies(results, log)
    counts, names = counts_of(results, log), class_names(results)
    phases = [index for index, size in enumerate(phase_sizes(results)) for _ in range(size)]
    rows = []
    for index, name in enumerate(names):
        first, last = learned[index], now[index]
        taken = ""
        if counts is not None:
            wrong = counts[index].copy()
            wrong[index] = 0
            if wrong.any():
                taken = f"{names[wrong.argmax()]} ({100 * wrong.max() / counts[index].sum():.0f} %)"
        change = None if first is None or last is None else last - first
        rows.append([index, name, phases[index], first, last, change, taken])
    return rows


def forgetting(results: Results) -> "Figure | None":
    """Draws the accuracy on each phase's classes as later phases come, and what each phase has lost since its best.

    results: the content of results.json. Returns None for a single phase.
    """
    matrix = results.get("accuracy_matrix") or [row["per_phase_top1"] for row in results["phases"]]
    count = len(matrix)
    if count < 2:
        return None
    from matplotlib import colormaps

    figure = new_figure(11.0, 4.4)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    gap, losses = float("nan"), []
    for phase in range(count):
        column = [gap if row[phase] is None else row[phase] for row in matrix[phase:]]
        colour = colormaps["viridis"](0.8 * phase / max(1, count - 1))
        left.plot(range(phase, count), column, color=colour, marker="o", markersize=4)
        left.annotate(str(phase), (phase, column[0]), xytext=(-4, 5), textcoords="offset points", fontsize=8)
        known = [value for value in column[:-1] if value == value]
        if phase < count - 1:
            losses.append(max(known) - column[-1] if known else gap)
    ticks = range(0, count, -(-count // MOST_TICKS))
    left.set(xlabel="after phase", ylabel="accuracy on the classes of a phase (%)", ylim=(-3, 108), xticks=ticks)
    left.set_title("a line for the classes of each phase, with its number", fontsize=10)
    left.grid(alpha=0.25)
    right.bar(range(count - 1), losses, color=BLUE)
    right.axhline(0, color="black", linewidth=0.8)
    right.set(
        xlabel="classes of phase", ylabel="forgotten (points)", xticks=range(0, count - 1, -(-count // MOST_TICKS))
    )
    right.set_title(f"best accuracy minus the last: {tables.number(results.get('forgetting'))} on average", fontsize=10)
    right.grid(axis="y", alpha=0.25)
    right.set_axisbelow(True)
    figure.suptitle(drawn_title(results), fontsize=11)
    return figure
