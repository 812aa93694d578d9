"""What the pictures of a report share: colours, empty figures, ticks, and their text as SVG.

matplotlib is imported inside the functions and used without pyplot: importing these modules takes no time, needs no
display and changes no global state.
"""

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cil_func.errors import printable
from cil_func.report import tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]  # of results["phases"]
Results = Mapping[str, Any]  # the content of results.json
Events = Sequence[Mapping[str, Any]]  # the content of metrics.jsonl

# Okabe and Ito's palette, whose colours differ for people with any kind of colour vision
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"
PALETTE = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"  # with a marker and a dash of its own, a curve is known in black and white too
DASHES = ("-", "--", ":", "-.")
MOST_TICKS = 20  # labels along an axis
MOST_NAMES = 30  # class names along an axis
_LONGEST_NAME = 16  # characters of a class name along an axis


def new_figure(width: float, height: float) -> "Figure":
    """Returns an empty matplotlib figure of width x height inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def svg(figure: "Figure | None", name: str) -> bytes | None:
    """Returns a figure as the bytes of an SVG file, which refers to nothing outside itself; None for None.

    name: makes the ids inside the file its own, so that several files can stand in one HTML page. Text stays text, so
    it can be found and copied, and letters that matplotlib's font lacks are drawn by the browser's.
    """
    if figure is None:
        return None
    from matplotlib import rc_context

    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(text, format="svg", metadata=nothing)
    drawn = text.getvalue()
    return _with_own_ids(drawn[drawn.index("<svg") :], name).encode()


def _with_own_ids(drawn: str, name: str) -> str:
    """Returns an SVG whose ids begin with `name`, without those of groups, which nothing refers to.

    Of several elements with one id, which matplotlib makes of equal ones, the first keeps it.
    """
    known: set[str] = set()

    def first(found: re.Match[str]) -> str:
        new = found[1] not in known
        known.add(found[1])
        return f' id="{name}-{found[1]}"' if new else ""

    drawn = re.sub(r'<g id="[^"]*">', "<g>", drawn)
    drawn = re.sub(r' id="([^"]*)"', first, drawn)
    return drawn.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")


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


def mark_phases(axes: "Axes", sizes: Sequence[int], names: Sequence[str]) -> None:
    """Gives an x axis of classes in order of arrival its phases: a line at each border, and their numbers above.

    sizes: how many classes each phase brought. names: of the classes; written if there are at most MOST_NAMES.
    """
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    for start in starts[1:]:
        axes.axvline(start - 0.5, color=GREY, linewidth=0.8, linestyle=":")
    middles = [start + (size - 1) / 2 for start, size in zip(starts, sizes, strict=True)]
    name_phases(axes, middles, list(range(len(sizes))))
    axes.set_xlim(-0.6, sum(sizes) - 0.4)
    if len(names) <= MOST_NAMES:
        axes.set_xticks(range(len(names)), [tick_name(name) for name in names], rotation=90 if len(names) > 10 else 0)
        axes.set_xlabel("class, in order of arrival")
    else:
        axes.locator_params("x", integer=True)
        axes.set_xlabel("number of the class, in order of arrival")


def tick_name(name: str) -> str:
    """Returns a class name as a label: printable, short, and `plain`."""
    text = printable(name)
    return plain(text if len(text) <= _LONGEST_NAME else text[: _LONGEST_NAME - 3] + "...")


def plain(text: str) -> str:
    """Returns a text that matplotlib draws as it is: "$" begins formulas otherwise, and a legend leaves out "_name"."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def drawn_title(results: Results) -> str:
    """Returns what `tables.title` does, to be drawn."""
    return plain(tables.title(results))


def class_names(results: Results) -> list[str]:
    """Returns the names of the classes seen, in order of arrival; their numbers if the results have no names."""
    seen = results["phases"][-1]["classes_seen"]
    names = results.get("class_names") or results.get("class_order") or range(seen)
    return [str(name) for name in names][:seen]


def phase_sizes(results: Results) -> list[int]:
    """Returns how many classes each phase brought; those before the first phase of the results come first, together."""
    first = results["phases"][0]
    earlier = first["classes_seen"] - first["num_new"]
    return [earlier] * bool(earlier) + [row["num_new"] for row in results["phases"]]


def last_ends(log: Events) -> dict[int, Mapping[str, Any]]:
    """Returns {phase: its last "phase_end" event}; a run that went on may have several of a phase."""
    return {event["phase"]: event for event in log if event.get("event") == "phase_end"}
