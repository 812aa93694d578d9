"""Our own numbers of each method: what the records of runs in benchmarks/results/ say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cil_func import config as configuration
from cil_func.config import Config
from cil_func.data import scenario
from cil_func.errors import CilError
from cil_func.runs import files
from cil_func.studies import recorded

FOLDER = Path(__file__).parents[2] / "benchmarks" / "results"  # isn't there in an installed package


def of(folder: Path, config: Config, sizes: list[int]) -> dict[str, str]:
    """Returns {method: its recorded runs, in words}, of runs with the same phases, data and backbone.

    folder: of records as `python -m benchmarks.record` and `benchmarks.all_methods` write them; {} if it isn't there.
    sizes: how many classes each phase brings. The training's recipe may differ, so each text names its record.
    Of several records of a method that with the most seeds is taken, then that with the highest average.
    """
    best: dict[str, tuple[int, float, str]] = {}
    for path in sorted(folder.glob("*.json")):
        record = files.read_object(path)
        if not _same(record, configuration.to_dict(config), sizes):
            continue
        for method, average, last, count in _figures(record):
            text = f"{average:.1f} / {last:.1f}, {path.stem}" + (f", mean of {count} seeds" if count > 1 else "")
            best[method] = max(best.get(method, (0, 0.0, "")), (count, average, text))
    return {method: text for method, (_, _, text) in best.items()}


def _figures(record: Mapping[str, Any]) -> list[tuple[str, float, float, int]]:
    """Returns (method, average, last, number of seeds) of each method that a record has numbers of."""
    figures, conditions = record["figures"], record["conditions"]
    if "average_incremental_accuracy" in figures:
        return [(conditions["method"], figures["average_incremental_accuracy"], figures["last_accuracy"], 1)]
    names = [key.removesuffix("_seeds") for key in figures if key.endswith("_seeds")]
    return [(name, figures[f"{name}_average"], figures[f"{name}_last"], figures[f"{name}_seeds"]) for name in names]


def _same(record: Mapping[str, Any], ours: Mapping[str, Any], sizes: list[int]) -> bool:
    """Returns whether a record is of all phases of a configuration, by its data and backbone.

    A record of CIFAR-100 may have read it from image files.
    """
    conditions = record.get("conditions", {})
    theirs = conditions.get("config")
    if theirs is None or not recorded.is_whole(conditions, sum(sizes)):
        return False
    if any(len(run["top1"]) != len(sizes) for run in record.get("runs", ())):  # several methods: no order of classes
        return False
    data, own = theirs["data"], ours["data"]
    names = {data["name"], own["name"]}
    if len(names) > 1 and not (names == {"cifar100", "image_folder"} and sum(sizes) == 100):
        return False
    try:
        found = scenario.increments(
            sum(sizes), initial_increment=data["initial_increment"], increment=data["increment"]
        )
    except CilError:
        return False
    same = all(data.get(key, "") == own[key] for key in ("image_size", "class_order", "subset"))
    return same and found == sizes and theirs["model"]["backbone"] == ours["model"]["backbone"]
