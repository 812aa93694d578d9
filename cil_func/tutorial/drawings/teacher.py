"""Figures of chapter 4: teacher and student, and what distillation changes."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from cil_func.report.axes import BLUE, GREEN, ORANGE, new_figure

LIGHT = "#D9D9D9"


def teacher_and_student(old: Sequence[str], new: Sequence[str]) -> Figure:
    """Draws which logits take part in which loss. old, new: the names of the classes."""
    figure = new_figure(8.0, 3.6)
    axes = figure.add_subplot()
    axes.set(xlim=(0, 10), ylim=(0, 4.4))
    axes.set_axis_off()
    _box(axes, 0.1, 1.75, 1.5, 0.9, "images:\nnew + exemplars", LIGHT)
    _box(axes, 2.5, 2.9, 1.9, 0.9, "teacher: model of\nthe last phase", LIGHT)
    _box(axes, 2.5, 0.6, 1.9, 0.9, "student: the same,\nexpanded", "white")
    for height in (3.35, 1.05):
        _arrow(axes, (1.65, 2.2), (2.45, height))
        _arrow(axes, (4.45, height), (5.0, height))
    for row, (height, names) in enumerate([(3.1, old), (0.8, [*old, *new])]):
        for place, name in enumerate(names):
            colour = LIGHT if place < len(old) else BLUE
            _box(axes, 5.1 + 0.42 * place, height, 0.36, 0.5, name, colour, white=place >= len(old))
        axes.text(5.1, height + 0.62, "logits of old classes" if row == 0 else "", fontsize=9)
    middle, right = 5.1 + 0.21 * len(old), 5.1 + 0.42 * (len(old) + len(new))
    axes.annotate("", (middle, 1.4), (middle, 3.05), arrowprops={"arrowstyle": "<->", "color": ORANGE, "linewidth": 2})
    axes.text(
        middle + 0.15,
        2.2,
        "KD: distillation at temperature T,\nover old classes",
        color=ORANGE,
        fontsize=10,
        va="center",
    )
    axes.annotate("", (5.1, 0.55), (right, 0.55), arrowprops={"arrowstyle": "|-|", "color": BLUE, "linewidth": 1.5})
    axes.text(5.1, 0.18, "CE: cross-entropy with the labels, over all classes", color=BLUE, fontsize=10, va="center")
    axes.text(2.5, 4.0, "not trained", fontsize=9)
    axes.text(2.5, 0.35, "trained", fontsize=9)
    return figure


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str, *, white: bool = False):
    """Draws a box with a text. white: whether the text is white."""
    style = "round,pad=0.02,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=colour, edgecolor="black"))
    colour = "white" if white else "black"
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=9, color=colour)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "linewidth": 1.2})


def temperatures(
    image: Sequence[Sequence[float]], answers: Mapping[str, Sequence[float]], names: Sequence[str]
) -> Figure:
    """Draws an image, and a teacher's probabilities for it at several temperatures.

    image: rows of pixels. answers: {label: a probability for each class}. names: of the classes.
    """
    figure = new_figure(8.0, 2.9)
    panels = figure.subplots(1, 1 + len(answers), width_ratios=[1.1, *[1.6] * len(answers)])
    panels[0].imshow(image, cmap="gray_r")
    panels[0].set(title="the image", xticks=[], yticks=[])
    for axes, (label, values) in zip(panels[1:], answers.items(), strict=True):
        axes.bar(names, values, color=BLUE, edgecolor="black", linewidth=0.6)
        axes.set(title=label, ylim=(0, 1.08), xlabel="digit")
        for place, value in enumerate(values):
            axes.text(place, value + 0.02, f"{value:.2f}".lstrip("0"), ha="center", fontsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].set_ylabel("teacher's probability")
    return figure


def gradients(temperatures: Sequence[float], curves: Mapping[str, Sequence[float]]) -> Figure:
    """Draws the length of the distillation's gradient against the temperature, both on logarithmic axes."""
    figure = new_figure(6.4, 3.3)
    axes = figure.add_subplot()
    styles = [(BLUE, "o", "-"), (ORANGE, "s", "--")]
    for (label, values), (colour, marker, line) in zip(curves.items(), styles, strict=False):
        axes.loglog(temperatures, values, color=colour, marker=marker, markersize=5, linestyle=line, label=label)
    axes.set(xlabel="temperature T", ylabel="length of the gradient")
    axes.set_xticks(temperatures, [f"{value:g}" for value in temperatures])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


def accuracies(curves: Mapping[str, Sequence[float]]) -> Figure:
    """Draws top-1 after each phase. curves: {label: a percentage for each phase}."""
    figure = new_figure(6.6, 3.6)
    axes = figure.add_subplot()
    # The first is broad and pale, so that it is seen where another lies upon it.
    styles = [("#B0B0B0", "s", "-", 7, 11), (GREEN, "^", "-.", 1.5, 5), (ORANGE, "s", "--", 1.5, 5),
              (BLUE, "o", "-", 1.5, 5)]  # fmt: skip
    for (label, values), (colour, marker, line, width, size) in zip(curves.items(), styles, strict=False):
        axes.plot(range(len(values)), values, color=colour, marker=marker, markersize=size, linestyle=line,
                  linewidth=width, label=label)  # fmt: skip
    axes.set(xlabel="after phase", ylabel="accuracy on all classes seen (%)", ylim=(0, 103))
    axes.set_xticks(range(max(map(len, curves.values()))))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower left")
    return figure
