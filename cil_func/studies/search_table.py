"""The table of a search: what the trials reached on validation images, and the winner on the test images."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cil_func.config import Config
from cil_func.report.tables import number
from cil_func.runs import files
from cil_func.studies import sweep_table
from cil_func.studies.search_space import Axis
from cil_func.studies.search_study import Trial
from cil_func.studies.sweep_plan import Run

_WINNER = re.compile(r"winner-(\d+)(?:_|$)")  # names of run directories that begin with `winner_name`


def collect(
    directory: Path, axes: Sequence[Axis], trials: Sequence[Trial], best: Trial, winners: Sequence[Run], base: Config
) -> dict[str, Any]:
    """Returns what the table shows: {"keys", "trials", "best", "validation", "phases", "winner", "tested_before"}.

    trials: each {"trial", "values", "average", "failed"}, by number; average: on validation images. best: the number of
    the chosen trial. validation: the share of images that is kept for it. phases: how many a trial has; 0: all. winner:
    an entry of `sweep_table.collect`, measured on the test images. tested_before: the numbers of other trials,
    in the table or not, that were the best of a search in this directory and were tested then. base: the configuration
    of the trials.
    """
    [winner] = sweep_table.collect(directory, winners)
    return {
        "keys": [axis.key for axis in axes],
        "trials": [
            {"trial": each.number, "values": each.values, "average": each.value, "failed": each.failed}
            for each in trials
        ],
        "best": best.number,
        "validation": base.data.validation,
        "phases": base.data.phases,
        "winner": winner,
        "tested_before": sorted(_tested(directory) - {best.number}),
    }


def _tested(directory: Path) -> set[int]:
    """Returns the numbers of the trials that have a run directory as winners, of whatever search."""
    found = (_WINNER.match(path.name) for path in directory.iterdir() if path.is_dir())
    return {int(match[1]) for match in found if match}


def winner_name(number: int) -> str:
    """Returns with what the names of the run directories begin in which a trial's values are tested: "winner-003"."""
    return f"winner-{number:03}"


def markdown(found: Mapping[str, Any]) -> str:
    """Returns the table as Markdown: a row a trial, then what was chosen by which images, then the winner's test."""
    keys = found["keys"]
    lines = [_row("trial", *(f"`{key}`" for key in keys), "average on validation images, %")]
    lines.append(_row(*["---"] * (len(keys) + 2)))
    for each in found["trials"]:
        text = "failed" if each["failed"] else number(each["average"], 2)
        name = f"**{each['trial']}**" if each["trial"] == found["best"] else str(each["trial"])
        lines.append(_row(name, *(each["values"][key] for key in keys), text))
    share = f"{100 * found['validation']:g} % of each class's training images"
    phases = {0: "of all phases", 1: "of phase 0 alone"}.get(found["phases"], f"of the first {found['phases']} phases")
    winner = found["winner"]
    before = ", ".join(map(str, found["tested_before"]))
    count = f"again, after those of trial {before} in another search" if before else "once"
    return "\n".join([
        *lines,
        "",
        f"Chosen: trial {found['best']}, by the average incremental accuracy {phases} on {share}, which no trial was",
        "trained on. No trial has looked at the test images.",
        "",
        f"Its values, trained on all training images and measured on the test images {count}:",
        "",
        sweep_table.markdown([winner]).replace("| `all` |", f"| `trial {found['best']}` |"),
    ])  # fmt: skip


def write(directory: Path, found: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
    """Writes table.md and table.json into the sweep's directory. plan: what was searched. Raises DiskError."""
    files.write_text(directory / "table.md", markdown(found))
    files.write_json(directory / "table.json", {**plan, **found})


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
