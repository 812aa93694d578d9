"""The table of a sweep: mean and deviation of each group of runs, and paired differences to the first group."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cil_func.errors import CheckpointError
from cil_func.report import cautions, several
from cil_func.runs import files
from cil_func.studies.sweep_plan import Run

MEASURES = {
    "average_incremental_accuracy": "average", "last_accuracy": "last", "forgetting": "forgetting",
}  # fmt: skip


def collect(directory: Path, planned: Sequence[Run]) -> list[dict[str, Any]]:
    """Returns one entry for each group of runs, from the results of its finished runs.

    {"group": its settings, "n": how many runs are finished, "of": how many there are, "runs": their names, "devices":
    those on which they ended, "measured_on": what `cautions.measured_on` says of each, and for each of MEASURES
    {"mean", "deviation" (of a sample; None for fewer than two runs), "values"}, and "difference": mean and deviation of
    the differences to the first group's run of the same seed and order, and their number n; None for the first group
    and without pairs}.
    """
    results = {run: found for run in planned if (found := results_of(directory / run.name))}
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in planned:
        groups.setdefault(run.group, []).append(run)
    first = next(iter(groups.values()), [])
    entries = []
    for group, members in groups.items():
        done = [run for run in members if run in results]
        entry: dict[str, Any] = {
            "group": list(group), "n": len(done), "of": len(members), "runs": [run.name for run in done],
            "devices": sorted({_device(results[run]) for run in done} - {""}),
            "measured_on": [cautions.measured_on(results[run]) for run in done],
        }  # fmt: skip
        base = {run.pair: results[run] for run in first if run in results and members is not first}
        for key in MEASURES:
            values = [results[run][key] for run in done if results[run][key] is not None]
            differences = [
                results[run][key] - base[run.pair][key]
                for run in done
                if run.pair in base and None not in (results[run][key], base[run.pair][key])
            ]
            entry[key] = {**_summary(values), "values": values, "difference": _paired(differences)}
        entries.append(entry)
    return entries


def markdown(entries: Sequence[dict[str, Any]]) -> str:
    """Returns the table as Markdown, one row a group: mean ± deviation in percent, and the paired differences.

    Lines under it name the devices if the runs ended on different ones, and say what `cautions.caution` does.
    """
    names = _names([entry["group"] for entry in entries])
    devices = sorted({device for entry in entries for device in entry["devices"]})
    lines = [
        "| " + " | ".join(["runs", "n", *MEASURES.values(), "last, difference to the first row"]) + " |",
        "| " + " | ".join(["---"] * (3 + len(MEASURES))) + " |",
    ]
    for name, entry in zip(names, entries, strict=True):
        count = str(entry["n"]) if entry["n"] == entry["of"] else f"{entry['n']} of {entry['of']}"
        cells = [_text(entry[key]) for key in MEASURES]
        difference = entry["last_accuracy"]["difference"]
        paired = f"{_text(difference, '+z.1f')} (n = {difference['n']})" if difference else "-"
        lines.append("| " + " | ".join([f"`{name}`", count, *cells, paired]) + " |")
    if len(devices) > 1:
        lines += ["", f"The runs ended on different devices: {'; '.join(devices)}."]
    if caution := cautions.caution([entry["measured_on"] for entry in entries]):
        lines += ["", caution]
    return "\n".join(lines) + "\n"


def _names(groups: Sequence[Sequence[str]]) -> list[str]:
    """Returns what the table calls groups: "learning_rate=0.05, name=wa"; "all" without settings.

    groups: the settings of each, "table.key=value". A key is written in full where another one ends like it.
    """
    keys = {setting.partition("=")[0] for group in groups for setting in group}
    ends = [key.rpartition(".")[2] for key in keys]
    short = {key: end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)}
    parts = [[setting.partition("=") for setting in group] for group in groups]
    names = [", ".join(f"{short[key]}={value}" for key, _, value in group) or "all" for group in parts]
    return [name.replace("|", r"\|") for name in names]


def write(directory: Path, entries: Sequence[dict[str, Any]], plan: dict[str, Any]) -> None:
    """Writes table.md and table.json into the sweep's directory. plan: what was swept. Raises DiskError."""
    files.write_text(directory / "table.md", markdown(entries))
    files.write_json(directory / "table.json", {**plan, "groups": list(entries)})


def is_finished(directory: Path) -> bool:
    """Returns whether a run directory says that its run is finished."""
    return files.read_object(directory / "status.json").get("state") == "finished"


def results_of(directory: Path) -> dict[str, Any]:
    """Returns the content of a finished run's results.json; {} if the run isn't finished, or if the table can't use it.

    It needs MEASURES, numbers or null. The rest may be missing, as in results of an older version, but is of its type.
    """
    found = files.read_object(directory / "results.json") if is_finished(directory) else {}
    return found if all(key in found for key in MEASURES) and _has_its_types(found) else {}


def _has_its_types(results: Mapping[str, Any]) -> bool:
    """Returns whether what a study reads of results.json is what a run writes there."""
    numbers = [results[key] for key in MEASURES]
    tables = [results.get(key) or {} for key in ("environment", "config", "own_code")]
    rows = results.get("phases") or []
    return (
        all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in numbers)
        and all(isinstance(table, dict) for table in tables)
        and isinstance(tables[1].get("data") or {}, dict)
        and isinstance(rows, list)
        and all(isinstance(row, dict) and {"classes_seen", "num_new"} <= {*row} for row in rows)
    )


def refuse_without_results(directory: Path, ended: Mapping[str, int]) -> None:
    """Raises CheckpointError for a run that has ended well and has no results that can be used.

    directory: the sweep's. ended: {name of a run: exit status}.
    """
    for name in [name for name, status in ended.items() if status == 0 and not results_of(directory / name)]:
        raise CheckpointError(
            f"{directory / name} is finished, and its results.json lacks what the table needs, as that of another "
            "version may; delete the directory, and the same command trains it again"
        )


def _device(results: Mapping[str, Any]) -> str:
    return (results.get("environment") or {}).get("device") or ""


def _summary(values: list[float]) -> dict[str, float | None]:
    found = several.spread(values)
    return found._asdict() if found else {"mean": None, "deviation": None}


def _paired(differences: list[float]) -> dict[str, Any] | None:
    return {**_summary(differences), "n": len(differences)} if differences else None


def _text(entry: dict[str, Any], form: str = ".1f") -> str:
    if entry["mean"] is None:
        return "-"
    return f"{entry['mean']:{form}}" + ("" if entry["deviation"] is None else f" ± {entry['deviation']:.1f}")
