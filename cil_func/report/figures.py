"""The finished run's figures and table, drawn from results.json and metrics.jsonl alone.

matplotlib is imported inside the functions and used without pyplot: importing this room costs nothing,
needs no display and leaves no global state. Percent on every axis that shows an accuracy or a share.
"""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cil_func.errors import ConfigError, printable
from cil_func.report import labels, tables
from cil_func.runs import event_log, files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]
Results = Mapping[str, Any]
Events = Sequence[Mapping[str, Any]]

# Okabe and Ito's palette: told apart by people with any kind of colour vision
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"
_TICKS = 20  # labels along an axis
_DPI = 150
_LABEL_WIDTH = 0.07  # of a number in accuracy.png, as a part of the distance from the first point to the last


def write(directory: str | Path, *, warn: Callable[[str], None] | None = None) -> list[Path]:
    """Draws `directory`/report/ from the run's files and returns what was written.

    table.md, accuracy.png and matrix.png always; alignment.png if a phase was aligned; loss.png if the log holds
    epochs. warn: called with a line about files that can't be made, and the others are made; None: the first failure
    is raised.
    Raises ConfigError for a folder without a readable results.json, DiskError if report/ can't be written.
    """
    directory = Path(directory)
    results, log = read_run(directory)
    makers = {
        "table.md": lambda: tables.markdown(results).encode(),
        "accuracy.png": lambda: _png(accuracy(results)),
        "matrix.png": lambda: _png(matrix(results)),
        "alignment.png": lambda: _png(alignment(results, log)),
        "loss.png": lambda: _png(loss(results, log)),
    }
    folder = directory / "report"
    files.make_directory(folder)
    written, failed = [], {}
    for name, make in makers.items():
        try:
            data = make()
        except Exception as error:
            if warn is None:
                raise
            failed.setdefault(f"{type(error).__name__}: {error}", []).append(name)  # one line a reason
            continue
        if data is None:
            (folder / name).unlink(missing_ok=True)  # an older drawing would speak of another run
            continue
        files.write_bytes(folder / name, data)
        written.append(folder / name)
    for reason, names in failed.items():
        warn(printable(f"{folder}: {', '.join(names)} can't be drawn ({reason})"))
    return written


def _png(figure: "Figure | None") -> bytes | None:
    if figure is None:
        return None
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=_DPI)
    return picture.getvalue()


def read_run(directory: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A run's results and its events ([] without metrics.jsonl); raises ConfigError if it has no results."""
    path = directory / "results.json"
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        log = event_log.read(directory / "metrics.jsonl") if (directory / "metrics.jsonl").exists() else []
    except OSError as error:
        raise ConfigError(
            f"{directory}: no readable results.json ({error.strerror}); give a run directory, "
            "which has one as soon as its first phase has ended"
        ) from error
    except ValueError as error:
        raise ConfigError(f"{directory}: results.json or metrics.jsonl is broken: {error}") from error
    if not isinstance(results, dict) or not results.get("phases"):
        raise ConfigError(f"{path}: holds no phases, so there is nothing to draw")
    return results, log


def accuracy(results: Results) -> "Figure":
    """Top-1 by logits and by nearest class mean, and top-1 before aligning, against the classes seen."""
    figure = _figure(7.5, 5.2)
    axes = figure.add_subplot()
    phases = results["phases"]
    seen = [row["classes_seen"] for row in phases]
    curves = [
        _curve(axes, seen, phases, "top1_before_align", color=_GREY, marker="v", linestyle=":",
               label="top-1 before aligning"),
        _curve(axes, seen, phases, "nme_top1", color=_ORANGE, marker="s", linestyle="--",
               label="nearest class mean (NME)"),
        _curve(axes, seen, phases, "top1", color=_BLUE, marker="o", label="top-1"),
    ]  # fmt: skip
    if len(phases) <= _TICKS // 2:
        heights = labels.heights(curves[-1], curves, width=_LABEL_WIDTH * (seen[-1] - seen[0]))
        for (x, value), height in zip(curves[-1], heights, strict=True):
            axes.text(x, height, f"{value:.1f}", ha="center", va="center", fontsize=9, color=_BLUE)
    axes.set(xlabel="classes seen", ylabel="accuracy on all classes seen (%)", ylim=(0, 112), yticks=range(0, 101, 20))
    _ticks(axes, seen)
    axes.grid(alpha=0.25)
    legend = (part[::-1] for part in axes.get_legend_handles_labels())
    figure.legend(*legend, loc="outside lower center", ncols=3)  # inside the axes it may cover a curve
    average = tables.number(results.get("average_incremental_accuracy"))
    axes.set_title(f"{tables.title(results)}\naverage incremental accuracy {average} %")
    return figure


def matrix(results: Results) -> "Figure":
    """The accuracy matrix as a heat map with its numbers: rows are phases in time, columns their classes."""
    import numpy as np

    rows = results.get("accuracy_matrix") or [row["per_phase_top1"] for row in results["phases"]]
    count = len(rows)
    values = np.full((count, count), np.nan)
    for index, row in enumerate(rows):
        values[index, : len(row)] = [np.nan if value is None else value for value in row]
    side = min(13.0, max(3.2, 0.48 * count))
    figure = _figure(side + 1.9, side + 1.0)
    axes = figure.add_subplot()
    image = axes.imshow(values, vmin=0, vmax=100, cmap="viridis")
    size = max(4.0, min(10.0, 19 * side / count))
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value) and count <= 2 * _TICKS:  # beyond that numbers are dust, colours still tell
            colour = "black" if value > 60 else "white"
            axes.text(j, i, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=size)
    ticks = range(0, count, -(-count // _TICKS))
    axes.set(xlabel="classes of phase", ylabel="after phase", xticks=ticks, yticks=ticks)
    axes.set_title(tables.title(results), fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.colorbar(image, ax=axes, label="top-1 accuracy (%)", fraction=0.046, pad=0.03)
    return figure


def alignment(results: Results, log: Events) -> "Figure | None":
    """The newest classes' share of predictions and the class norms, before and after aligning.

    None if no phase was aligned; without norms in the log, the shares alone.
    """
    rows = [row for row in results["phases"] if row.get("gamma") is not None]
    if not rows:
        return None
    norms = _last_norms(log, rows[-1])
    figure = _figure(11.5 if norms else 6.0, 4.4)
    _draw_shares(figure.add_subplot(1, 2 if norms else 1, 1), rows)
    if norms:
        _draw_norms(figure.add_subplot(1, 2, 2), norms, rows[-1])
    figure.suptitle(tables.title(results), fontsize=11)
    return figure


def loss(results: Results, log: Events) -> "Figure | None":
    """The training loss by epoch, phases marked; None if the log holds no epoch with a loss."""
    # A run that goes on repeats the epochs after its checkpoint: the later event is the one that counts.
    latest = {(e["phase"], e["epoch"]): e.get("loss") for e in log if e.get("event") == "epoch"}
    by_phase: dict[int, list[float]] = {}
    for phase, epoch in sorted(latest):
        value = latest[phase, epoch]
        by_phase.setdefault(phase, []).append(float("nan") if value is None else value)
    if not by_phase:
        return None
    figure = _figure(8.5, 4.4)
    axes = figure.add_subplot()
    start, middles = 0, []
    for position, values in enumerate(by_phase.values()):
        if position % 2:
            axes.axvspan(start + 0.5, start + len(values) + 0.5, color=_GREY, alpha=0.12, linewidth=0)
        xs = range(start + 1, start + len(values) + 1)
        axes.plot(xs, values, color=_BLUE, marker="o" if len(values) < 15 else None, markersize=3)
        middles.append(start + (len(values) + 1) / 2)
        start += len(values)
    axes.set(xlabel="epoch, counted over all phases", ylabel="training loss", xlim=(0.5, start + 0.5))
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.grid(alpha=0.25)
    _name_phases(axes, middles, list(by_phase))
    axes.set_title(tables.title(results))
    return figure


def _draw_shares(axes: "Axes", rows: Sequence[Row]) -> None:
    """Before and after as bars, the fair share as a mark across each pair."""
    xs = range(len(rows))
    before = [100 * (row.get("new_share_before_align") or 0) for row in rows]
    after = [100 * (row.get("new_share") or 0) for row in rows]
    axes.bar([x - 0.2 for x in xs], before, 0.38, color=_GREY, label="before aligning")
    axes.bar([x + 0.2 for x in xs], after, 0.38, color=_BLUE, label="after aligning")
    fair = [float("nan") if row.get("fair_share") is None else 100 * row["fair_share"] for row in rows]
    axes.hlines(fair, [x - 0.45 for x in xs], [x + 0.45 for x in xs], color=_ORANGE, linewidth=2.5,
                label="share of the test images")  # fmt: skip
    stride = -(-len(rows) // _TICKS)
    axes.set_xticks(list(xs)[::stride], [str(row["phase"]) for row in rows][::stride])
    top = max(before + after + [share for share in fair if share == share])
    axes.set(xlabel="phase", ylabel="predictions that name a new class (%)", ylim=(0, 1.3 * top or 1))
    axes.set_xlim(-0.8, max(len(rows) - 0.2, 1.8))  # a single pair of bars is no wall
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.legend(loc="upper right", fontsize=9)
    axes.set_title("share of the newest classes", fontsize=10)


def _draw_norms(axes: "Axes", norms: Mapping[str, Sequence[float]], row: Row) -> None:
    """Each class's weight norm, in the order of learning, and where the newest phase begins."""
    size = max(2.0, min(6.0, 300 / len(norms["before_align"])))
    before, after = norms["before_align"], norms.get("after_align") or []
    axes.plot(range(len(after)), after, "o", color=_BLUE, markersize=size, label="after aligning")
    # rings around the points: old rows have both in one place
    axes.plot(range(len(before)), before, "o", color=_GREY, markersize=size + 2, fillstyle="none",
              label="before aligning")  # fmt: skip
    first_new = len(before) - row["num_new"] - 0.5
    axes.axvline(first_new, color=_ORANGE, linewidth=1.5, linestyle="--", label="newest classes begin")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="class, in order of learning", ylabel="norm of the classifier's row")
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])  # room for the legend above the points
    axes.grid(alpha=0.25)
    axes.legend(loc="upper left", fontsize=9)
    gamma = tables.number(row["gamma"], 3)
    axes.set_title(f"class norms in phase {row['phase']}, gamma {gamma}", fontsize=10)


def _last_norms(log: Events, row: Row) -> Mapping[str, Sequence[float]] | None:
    """The norms that the log holds for that phase; the newest entry counts."""
    for event in reversed(log):
        if event.get("event") == "phase_end" and event.get("phase") == row["phase"]:
            norms = event.get("norms") or {}
            return norms if norms.get("before_align") else None
    return None


def _curve(axes: "Axes", seen: Sequence[int], phases: Sequence[Row], key: str, **style: Any) -> list[labels.Point]:
    """Draws one measure over the phases that have it, and returns its points (x, percent)."""
    points = [(x, row[key]) for x, row in zip(seen, phases, strict=True) if row.get(key) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), markersize=5, **style)
    return points


def _name_phases(axes: "Axes", middles: Sequence[float], names: Sequence[int]) -> None:
    """Phase numbers above the plot, as many as fit."""
    top = axes.secondary_xaxis("top")
    stride = -(-len(names) // _TICKS)
    top.set_xticks(list(middles)[::stride], [str(name) for name in names][::stride])
    top.tick_params(length=0)
    top.set_xlabel("phase")


def _ticks(axes: "Axes", values: Sequence[int]) -> None:
    """A tick at each value, or at every second, third, ... where they would run into each other."""
    axes.set_xticks(list(values)[:: -(-len(values) // _TICKS)])


def _figure(width: float, height: float) -> "Figure":
    """An empty figure of that many inches, on no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
