"""The figure of chapter 7: two loops that learn the same."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from cil_func.report.axes import BLUE, ORANGE, new_figure


def both(plain: Sequence[float], package: Sequence[float]) -> Figure:
    """Draws the accuracies of two loops. plain, package: top-1 after each phase, percent."""
    figure = new_figure(5.2, 3.0)
    axes, places = figure.add_subplot(), range(len(plain))
    axes.plot(places, package, color=BLUE, linewidth=6, alpha=0.5, label="experiment.run")
    axes.plot(places, plain, color=ORANGE, linestyle="--", marker="o", label="torch alone")
    axes.set(xlabel="phase", ylabel="top-1 on all classes seen (%)", ylim=(0, 105), xticks=places)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure
