"""Turns events into the lines of text that both consoles print."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from cil_func.errors import printable
from cil_func.report import tables
from cil_func.report.time_left import duration

Event = Mapping[str, Any]
_LONGEST_NAME = 24  # characters of a class name that a line shows


def header_lines(event: Event) -> list[str]:
    """Returns two lines about a run: method, data, classes and device; epochs, images and the directory.

    event: a "run_start" or "resume" event.
    """
    phases, epochs = event.get("phases") or [], event.get("epochs") or []
    planned = sum(a * b for a, b in zip(event.get("train_images") or [], epochs, strict=False))
    name = f"{event.get('method', '-')} on {event.get('data', '-')}"
    sizes = f"{event.get('num_classes', '-')} classes in {count_text(len(phases), 'phase')} ({fold_counts(phases)})"
    device = ", ".join(str(event.get(key) or "-") for key in ("backbone", "device", "precision"))
    return [
        f"{name}: {sizes}, {device}",
        f"epochs {fold_counts(epochs)}, {planned:,} images in all; files in {event.get('directory', '-')}",
    ]


def resume_line(event: Event) -> str:
    """Returns a line that says where a run goes on. event: a "resume" event."""
    at = f"phase {event.get('phase', '-')}"
    if event.get("epoch", -1) >= 0:
        at += f", epoch {event['epoch']}, step {event.get('step', '-')}"
    if event.get("selected"):
        at += ", exemplars selected"
    return f"going on from {at}"


def compiling_text(event: Event) -> str:
    """Returns what is compiled and how long it takes: "compiling the training step, about a minute, once".

    event: a "compiling" event.
    """
    what = event.get("what", "-")
    return f"compiling the {what}, {'about' if what == 'training step' else 'up to'} a minute, once"


def fold_counts(counts: Sequence[int]) -> str:
    """Returns counts as text, equal neighbours folded: [50, 10, 10] becomes "50, 2 x 10"; "-" if there are none."""
    folded = ((value, len(list(same))) for value, same in itertools.groupby(counts))
    return ", ".join(f"{many} x {value}" if many > 1 else str(value) for value, many in folded) or "-"


def phase_text(event: Event) -> str:
    """Returns what a phase brings: "2 new classes (cat, dog), 4 seen, 387 images, 40 epochs".

    event: a "phase_start" event.
    """
    new, seen = event.get("num_new") or 0, event.get("classes_seen", "-")
    names = names_text(event.get("class_names") or [])
    brought = count_text(new, "new class", "es") + (f" ({names})" if names else "")
    return f"{brought}, {seen} seen, {images_text(event)}"


def result_lines(row: Event) -> list[str]:
    """Returns what a phase reached, in words: a line about its accuracy and, if it was aligned, two about that.

    row: a "phase_end" event, or an entry of results["phases"].
    """
    accuracy = f"accuracy {tables.number(row.get('top1'))} % on all {row.get('classes_seen', '-')} classes seen"
    if row.get("old_top1") is not None:
        accuracy += f": {tables.number(row['old_top1'])} on old ones, {tables.number(row.get('new_top1'))} on new ones"
    return [accuracy] if row.get("gamma") is None else [accuracy, *_aligned_lines(row)]


def _aligned_lines(row: Event) -> list[str]:
    """Returns what aligning did: its factor, the share of predictions that name a new class, and the accuracy.

    If the accuracy became lower, the text says so: "accuracy 99.3 -> 98.1, which hurts". In two lines, since one would
    be wider than a terminal of 80 columns.
    """
    shares = (row.get(key) for key in ("new_share_before_align", "new_share", "fair_share"))
    before, after, fair = ("-" if share is None else f"{100 * share:.0f}" for share in shares)
    was, now = row.get("top1_before_align"), row.get("top1")
    hurts = was is not None and now is not None and round(now, 1) < round(was, 1)
    return [
        f"aligned: gamma {tables.number(row['gamma'], 2)}, share of new classes {before} -> {after} % (fair {fair}),",
        f"         accuracy {tables.number(was)} -> {tables.number(now)}" + ", which hurts" * hurts,
    ]


def images_text(event: Event) -> str:
    """Returns how much a phase or a stage of it trains: "387 images, 40 epochs"."""
    return f"{event.get('train_images') or 0:,} images, {count_text(event.get('epochs') or 0, 'epoch')}"


def names_text(names: Sequence[str]) -> str:
    """Returns the first three names and how many more there are: "ant, bee, cat and 7 more". Long names are cut."""
    shown = [name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 3] + "..." for name in names[:3]]
    return printable(", ".join(shown)) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def measures_text(latest: Event, doing: str) -> str:
    """Returns the second line of the bar: measures of the newest epoch, and its speed or what is being done.

    latest: {field of an "epoch" or "evaluation" event: its newest value}; a measure that is missing is left out.
    doing: what the run does instead of training, "" if it trains.
    """
    parts = []
    if "loss" in latest:
        parts.append(f"loss {tables.number(latest['loss'], 4)}")
        parts.append(f"train {tables.number(latest.get('train_top1'))} %")
    if "logits_top1" in latest:
        parts.append(f"{latest.get('on', 'test')} by logits {tables.number(latest['logits_top1'])} %")
    if doing:
        parts.append(doing)
    elif latest.get("images_per_second") is not None:
        parts.append(f"{latest['images_per_second']:,.0f} images/s")
    return "  " + "   ".join(parts)


def time_line(event: Event) -> str:
    """Returns a line with the run's time, aligned with `tables.summary_lines`. event: a "run_end" event."""
    return f"{'time':<28}  {duration(event.get('seconds'))}"


def count_text(count: int, noun: str, plural: str = "s") -> str:
    """Returns a count with its noun: "1 phase", "2 new classes". plural: the ending of other counts than 1."""
    return f"{count} {noun}{'' if count == 1 else plural}"
