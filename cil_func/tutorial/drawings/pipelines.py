"""The figure of data pipelines in chapter 1: what happens to images on their way to the model, step by step."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from cil_func.report.axes import new_figure

PLACES = {"CPU": ("#E3E3E3", None), "workers": ("white", "//"), "device": ("#B9D9EC", None)}  # colour, pattern
LEGEND = {"CPU": "in the main process", "workers": "one image at a time, in worker processes",
          "device": "many images at once, on the device"}  # fmt: skip
_WIDTH, _HEIGHT, _GAP = 1.86, 1.25, 0.34


def pipelines(ways: Mapping[str, Sequence[tuple[str, str, str]]]) -> Figure:
    """Draws ways from a data set to the model, each as a row of boxes.

    ways: {title: steps}; a step is (what does it, what it does, where: a key of PLACES).
    """
    most = max(map(len, ways.values()))
    figure = new_figure(10.2, 1.75 * len(ways) + 0.5)
    axes = figure.add_subplot()
    axes.set(xlim=(-0.05, most * (_WIDTH + _GAP) - _GAP + 0.05), ylim=(-2.0 * len(ways) + 0.4, 0.45))
    axes.set_axis_off()
    for line, (title, steps) in enumerate(ways.items()):
        bottom = -2.0 * line - _HEIGHT
        axes.text(0, bottom + _HEIGHT + 0.12, title, fontsize=11, weight="bold")
        for place, (name, text, where) in enumerate(steps):
            left, (colour, pattern) = place * (_WIDTH + _GAP), PLACES[where]
            # The pattern is grey and the frame black: of one patch both have the colour of the edge.
            for face, edge, hatch in ((colour, "#B0B0B0", pattern), ("none", "black", None)):
                box = FancyBboxPatch((left, bottom), _WIDTH, _HEIGHT, "round,pad=0,rounding_size=0.08")
                box.set(facecolor=face, edgecolor=edge, hatch=hatch)
                axes.add_patch(box)
            plain = {"boxstyle": "square,pad=0.12", "facecolor": "white", "edgecolor": "none"} if pattern else None
            middle = left + _WIDTH / 2
            axes.text(middle, bottom + 0.98, name, ha="center", va="center", fontsize=9, weight="bold", bbox=plain)
            axes.text(middle, bottom + 0.42, text, ha="center", va="center", fontsize=8, bbox=plain)
            if place:
                arrow = {"arrowstyle": "-|>", "color": "black"}
                axes.annotate("", (left, bottom + _HEIGHT / 2), (left - _GAP, bottom + _HEIGHT / 2), arrowprops=arrow)
    handles = [FancyBboxPatch((0, 0), 1, 1, facecolor=colour, hatch=pattern, edgecolor="black", label=LEGEND[where])
               for where, (colour, pattern) in PLACES.items()]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    return figure
