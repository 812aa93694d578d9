"""What the pictures of a report share: colours, empty figures, ticks, and their bytes as PNG.

matplotlib is imported inside the functions and used without pyplot: importing these modules takes no time, needs no
display and changes no global state.
"""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]  # of results["phases"]
Results = Mapping[str, Any]  # the content of results.json
Events = Sequence[Mapping[str, Any]]  # the content of metrics.jsonl

# Okabe and Ito's palette, whose colours differ for people with any kind of colour vision
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"
MOST_TICKS = 20  # labels along an axis
_DPI = 150


def new_figure(width: float, height: float) -> "Figure":
    """Returns an empty matplotlib figure of width x height inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def png(figure: "Figure | None") -> bytes | None:
    """Returns a figure as the bytes of a PNG file; None for None."""
    if figure is None:
        return None
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=_DPI)
    return picture.getvalue()


def set_ticks(axes: "Axes", values: Sequence[int]) -> None:
    """Puts a tick on the x axis at each value, or at every second, third, ... one if there are more than MOST_TICKS."""
    axes.set_xticks(list(values)[:: -(-len(values) // MOST_TICKS)])


def name_phases(axes: "Axes", middles: Sequence[float], names: Sequence[int]) -> None:
    """Writes phase numbers above the plot, at most MOST_TICKS of them. names: the numbers; middles: the x of each."""
    top = axes.secondary_xaxis("top")
    stride = -(-len(names) // MOST_TICKS)
    top.set_xticks(list(middles)[::stride], [str(name) for name in names][::stride])
    top.tick_params(length=0)
    top.set_xlabel("phase")
