"""Makes the report of several runs: curves by method with mean and deviation, and one table in four forms."""

import csv
import io
import statistics
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cil_func.report import cautions, lines, markup, page, tables
from cil_func.report.axes import DASHES, GREY, MARKERS, PALETTE, Results, new_figure, plain, svg
from cil_func.report.markup import Section
from cil_func.report.material import Material

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Keys in which runs of one group may differ: they change the luck, the machine or nothing.
_REPEATS = (
    "run.seed", "run.device", "run.precision", "run.compile", "run.recompute", "run.threads", "run.timeout_seconds",
    "run.loggers", "checkpoint.", "data.path", "data.order_seed", "data.class_order", "data.workers", "data.storage",
    "data.packed", "memory.keep",
)  # fmt: skip
_FIGURES = (
    ("average_incremental_accuracy", "average, %"),
    ("last_accuracy", "last, %"),
    ("forgetting", "forgetting, points"),
)


class Group(NamedTuple):
    """Runs of one method and configuration on the same images, whose seeds or class orders may differ.

    name: the method, and what its configuration or images have that other groups of the method don't.
    """

    name: str
    runs: Sequence[Material]


class Spread(NamedTuple):
    """mean, and sample deviation of some numbers (n - 1); the deviation is None for a single one."""

    mean: float
    deviation: float | None


def make(runs: Sequence[Material]) -> dict[str, bytes | None]:
    """Returns {file name: its content} of the report of several runs."""
    groups = groups_of(runs)
    figures = {"accuracy.svg": svg(curves(groups), "accuracies")}
    return {
        "table.md": (markdown(groups) + "\n").encode(),
        "table.csv": as_csv(groups).encode(),
        "table.tex": latex(groups).encode(),
        **figures,
        page.FILE: _page(groups, figures["accuracy.svg"]),
    }


def groups_of(runs: Sequence[Material]) -> list[Group]:
    """Returns the runs by method, configuration and images, in the order in which they came."""
    settings = [_settings(run.results) for run in runs]
    found: dict[tuple, list[int]] = {}
    for index, run in enumerate(runs):
        key = (run.results.get("method", "-"), *sorted((name, repr(value)) for name, value in settings[index].items()))
        found.setdefault(key, []).append(index)
    groups = []
    for key, members in found.items():
        same_method = [settings[others[0]] for other, others in found.items() if other[0] == key[0]]
        own = settings[members[0]]
        differing = [name for name in own if any(other.get(name) != own[name] for other in same_method)]
        details = ", ".join(f"{name} = {_short(name, own[name])}" for name in differing)
        groups.append(Group(f"{key[0]} ({details})" if details else key[0], [runs[index] for index in members]))
    return groups


def _settings(results: Results) -> dict[str, Any]:
    """Returns {dotted key: value} of what makes a run another one, without seeds and machine.

    Besides the configuration these are "images", the fingerprint of the data, "classes", the names, sorted, and "own
    files", the digests of the user's own. They are None and [] in results of an older version, which don't have them.
    """
    flat = markup.flat(results.get("config") or {})
    names = sorted(map(str, results.get("class_names") or []))
    own_files = sorted((results.get("own_code") or {}).values())
    data = {"images": results.get("data_fingerprint"), "classes": names, "own files": own_files}
    return {key: value for key, value in flat.items() if not key.startswith(_REPEATS)} | data


def _short(name: str, value: Any) -> str:
    """Returns the value of a setting as a group's name has it: without most of a fingerprint, and of many classes."""
    if name == "images":
        return str(value or "unknown")[:8]
    if name == "own files":
        return " and ".join(digest[:8] for digest in value) or "unknown"
    return (lines.names_text(value) or "unknown") if name == "classes" else str(value)


def spread(values: Sequence[float | None]) -> Spread | None:
    """Returns the mean and deviation of the numbers among `values`; None if there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


def _spreads(group: Group) -> list[Spread | None]:
    return [spread([run.results.get(key) for run in group.runs]) for key, _ in _FIGURES]


def rows_of(groups: Sequence[Group], *, plus_minus: str = " ± ") -> list[list[str]]:
    """Returns a row of text for each group: its name, the number of runs, and each figure as "mean ± deviation"."""
    return [
        [group.name, str(len(group.runs)), *(text(each, plus_minus=plus_minus) for each in _spreads(group))]
        for group in groups
    ]


def text(found: Spread | None, *, plus_minus: str = " ± ") -> str:
    """Returns "mean ± deviation" with one decimal; the mean alone where there is no deviation, "-" for None."""
    if found is None or found.deviation is None:
        return "-" if found is None else tables.number(found.mean)
    return f"{tables.number(found.mean)}{plus_minus}{tables.number(found.deviation)}"


_TITLES = ("method", "runs", *(title for _, title in _FIGURES))


def markdown(groups: Sequence[Group]) -> str:
    """Returns the table as Markdown, with what `caution` says below it, without a newline at the end."""
    titles = [_TITLES, ("---", *["---:"] * (len(_TITLES) - 1))]
    cells = [[text.replace("|", r"\|") for text in row] for row in rows_of(groups)]
    warning = caution(groups)
    return "\n".join(["| " + " | ".join(row) + " |" for row in [*titles, *cells]] + (["", warning] if warning else []))


def caution(groups: Sequence[Group]) -> str:
    """Returns what `cautions.caution` says of these runs: a line, or ""."""
    return cautions.caution([[cautions.measured_on(run.results) for run in group.runs] for group in groups])


def as_csv(groups: Sequence[Group]) -> str:
    """Returns the table as CSV, a column for each mean and each deviation; what is unknown is empty."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["method", "runs", *(f"{key}_{part}" for key, _ in _FIGURES for part in Spread._fields)])
    for group in groups:
        numbers = [number for found in _spreads(group) for number in (found or (None, None))]
        out.writerow([group.name, len(group.runs), *("" if number is None else number for number in numbers)])
    return text.getvalue()


def latex(groups: Sequence[Group]) -> str:
    """Returns the table as a LaTeX tabular, which needs no package."""

    def plain(text: str) -> str:
        special = {letter: f"\\{letter}" for letter in "&%$#_{}"}
        special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
        return "".join(special.get(letter, letter) for letter in text)

    rows = rows_of(groups, plus_minus=" $\\pm$ ")
    table = [[plain(title) for title in _TITLES], *([plain(row[0]), *row[1:]] for row in rows)]
    first, *rest = (" & ".join(line) + r" \\" for line in table)
    return (
        "\n".join([r"\begin{tabular}{lrrrr}", r"\hline", first, r"\hline", *rest, r"\hline", r"\end{tabular}"]) + "\n"
    )


def curves(groups: Sequence[Group]) -> "Figure":
    """Draws the mean accuracy of each group over the classes seen, with a band of one deviation."""
    names = [textwrap.fill(f"{each.name}, {len(each.runs)} runs" if len(each.runs) > 1 else each.name, 90)
             for each in groups]  # fmt: skip
    columns = 1 if max(map(len, names)) > 30 else 3
    rows = sum(1 + name.count("\n") for name in names) / columns
    figure = new_figure(8.0, 5.2 + 0.21 * rows)  # what the legend takes is added
    axes = figure.add_subplot()
    for number, group in enumerate(groups):
        by_seen: dict[int, list[float]] = {}
        for run in group.runs:
            for row in run.results["phases"]:
                by_seen.setdefault(row["classes_seen"], []).append(row["top1"])
        points = sorted((seen, found) for seen, values in by_seen.items() if (found := spread(values)))
        xs, means = [seen for seen, _ in points], [found.mean for _, found in points]
        colour = PALETTE[number % len(PALETTE)]
        axes.plot(xs, means, color=colour, marker=MARKERS[number % len(MARKERS)], markersize=5,
                  linestyle=DASHES[number // len(PALETTE) % len(DASHES)], label=plain(names[number]))  # fmt: skip
        deviations = [found.deviation or 0.0 for _, found in points]
        lows, highs = ([m + sign * d for m, d in zip(means, deviations, strict=True)] for sign in (-1, 1))
        axes.fill_between(xs, lows, highs, color=colour, alpha=0.18, linewidth=0)
    axes.set(xlabel="classes seen", ylabel="accuracy on all classes seen (%)", ylim=(0, 103))
    axes.grid(color=GREY, alpha=0.25)
    figure.legend(loc="outside lower center", ncols=columns)
    return figure


def _page(groups: Sequence[Group], drawn: bytes | None) -> bytes:
    """Returns report.html of several runs. drawn: the figure of their curves."""
    note = "Mean and sample deviation over the runs of a method, which differ in seed or class order."
    parts = [markup.paragraph(note), markup.table(_TITLES, rows_of(groups), words=("method",))]
    if warning := caution(groups):
        parts.insert(0, markup.paragraph(warning))
    single = [
        [group.name, run.directory, run.results.get("seed"), *(run.results.get(key) for key, _ in _FIGURES)]
        for group in groups
        for run in group.runs
    ]
    titles = ("method", "run", "seed", *(title for _, title in _FIGURES))
    sections = [
        Section("table", "By method", parts),
        Section("curves", "Accuracy by phase", markup.figure(drawn, "Lines: means. Bands: one sample deviation.")),
        Section("runs", "All runs", [markup.table(titles, single, words=("method", "run"))]),
        Section("published", "Published results", page.published_parts(groups[0].runs[0].results, "the first run")),
    ]
    return markup.document(f"{sum(len(group.runs) for group in groups)} runs", [], sections)
