"""Draws what the training measured over its epochs: losses, rates and the norms of a step."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cil_func.report.axes import BLUE, GREY, Events, Results, drawn_title, name_phases, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Measure(NamedTuple):
    """A measure to draw. key: of "epoch" events. label: of its axis. log_scale: whether the axis is logarithmic."""

    key: str
    label: str
    log_scale: bool = False


LOSS = (Measure("loss", "training loss"), Measure("train_top1", "training accuracy (%)"))
RATES = (Measure("learning_rate", "learning rate"), Measure("images_per_second", "images a second"))
STEPS = (
    Measure("gradient_norm", "norm of\nthe gradient", log_scale=True),
    Measure("update_norm", "norm of\nthe update", log_scale=True),
    Measure("weight_norm", "norm of\nall weights"),
)


def draw(results: Results, log: Events, measures: Sequence[Measure]) -> "Figure | None":
    """Draws measures of each epoch one below the other, with the phases marked; later stages of a phase come after it.

    results: the content of results.json, for the title. log: the run's events. measures: those that no event has are
    left out. Returns None if that leaves none.
    """
    epochs = epochs_of(log)
    measures = [each for each in measures if any(event.get(each.key) is not None for event in epochs)]
    if not measures:
        return None
    figure = new_figure(8.5, 1.2 + 2.1 * len(measures))
    panels = list(figure.subplots(len(measures), sharex=True, squeeze=False)[:, 0])
    for axes, measure in zip(panels, measures, strict=True):
        _draw_one(axes, epochs, measure)
    _mark(panels, [event["phase"] for event in epochs])
    panels[-1].set(xlabel="epoch, counted over all phases", xlim=(0.5, len(epochs) + 0.5))
    figure.suptitle(drawn_title(results), fontsize=11)
    return figure


def epochs_of(log: Events) -> list[Mapping[str, Any]]:
    """Returns the "epoch" events of a run in order, each epoch once.

    A run that goes on repeats the epochs after its checkpoint: the later event is the right one.
    """
    latest: dict[tuple, Mapping[str, Any]] = {}
    for event in log:
        if event.get("event") == "epoch":
            latest[event["phase"], event.get("stage") or "", event["epoch"]] = event
    stages = list(dict.fromkeys(stage for _, stage, _ in latest))  # in the order in which they came
    return [latest[key] for key in sorted(latest, key=lambda key: (key[0], stages.index(key[1]), key[2]))]


def _draw_one(axes: "Axes", epochs: Sequence[Mapping[str, Any]], measure: Measure) -> None:
    """Draws one measure, a line for each phase and stage."""
    lines: dict[tuple, list[tuple[int, float]]] = {}
    for x, event in enumerate(epochs, start=1):
        value = event.get(measure.key)
        point = x, float("nan") if value is None else value
        lines.setdefault((event["phase"], event.get("stage") or ""), []).append(point)
    for points in lines.values():
        axes.plot(*zip(*points, strict=True), color=BLUE, marker="o" if len(points) < 15 else None, markersize=3)
    axes.set_ylabel(measure.label, fontsize=9)
    axes.grid(alpha=0.25)
    if measure.log_scale and any((event.get(measure.key) or 0) > 0 for event in epochs):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))


def _mark(panels: Sequence["Axes"], phases: Sequence[int]) -> None:
    """Shades every second phase, and writes the phases' numbers above the first panel.

    phases: the phase of each epoch.
    """
    middles, names = [], list(dict.fromkeys(phases))
    for position, phase in enumerate(names):
        first, count = phases.index(phase), phases.count(phase)
        middles.append(first + (count + 1) / 2)
        for axes in panels if position % 2 else ():
            axes.axvspan(first + 0.5, first + count + 0.5, color=GREY, alpha=0.12, linewidth=0)
    name_phases(panels[0], middles, names)
