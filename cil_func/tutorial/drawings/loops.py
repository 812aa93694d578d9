"""The figure of chapter 7: two loops that learn the same."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from cil_func.report.axes import BLUE, ORANGE, new_figure


def both(package: Sequence[float], plain: Sequence[float], accuracies: Sequence[float]) -> Figure:
    """Draws weights of two loops against each other, and the accuracies, in which the two agree exactly.

    package, plain: the weights, in the same order. accuracies: top-1 after each phase, percent.
    """
    figure = new_figure(7.4, 3.3)
    weights, curve = figure.subplots(1, 2)
    most = max(map(abs, plain)) * 1.05
    weights.plot([-most, most], [-most, most], color=ORANGE, linewidth=0.8, zorder=1)
    weights.scatter(package, plain, s=14, facecolor="none", edgecolor=BLUE, linewidth=0.5, zorder=2)
    weights.set(xlabel="by experiment.run", ylabel="by torch alone", title=f"{len(plain):,} weights, after all phases")
    weights.set_aspect("equal")
    places = range(len(accuracies))
    curve.plot(places, accuracies, color=BLUE, marker="o")
    curve.set(xlabel="after phase", title="accuracy of both (%)", ylim=(0, 105), xticks=places)
    curve.grid(alpha=0.25)
    return figure
