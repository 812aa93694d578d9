"""The recorded runs that published rows can be compared with: recorded.json, made by `python -m benchmarks.recorded`.

The records themselves, with all conditions, are in benchmarks/results/, which an installed package doesn't have.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

from cil_func import config as configuration
from cil_func.config import Config
from cil_func.report import published, several
from cil_func.report.published import Published
from cil_func.studies import published_rows
from cil_func.studies.differences import differences

FILE = Path(__file__).with_name("recorded.json")
_COMPARED = "resnet32"  # the group of published rows that records on CIFAR-100 belong to
_NO_RECIPE = (  # the machine, or the same images
    "run.", "checkpoint.", "data.name", "data.path", "data.image_size", "data.storage", "data.workers", "data.packed",
)  # fmt: skip


@cache
def entries() -> tuple[dict[str, Any], ...]:
    """Returns the recorded runs, as `of_record` makes them."""
    return tuple(json.loads(FILE.read_text(encoding="utf-8")))


def of_row(row: Published) -> list[dict[str, Any]]:
    """Returns the recorded runs of a row, in the order of recorded.json."""
    return [each for each in entries() if each["row"] == row.name]


def ordered(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns entries by row: first those by the row's recipe, then the best average first."""
    return sorted(found, key=lambda each: (each["row"], bool(each["differs"]), -each["average"]))


def grouped(found: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Returns entries in groups of one recipe on one device, of one run a seed, in the order of seeds.

    Groups of a row: first those by the row's recipe, then those of most runs, then the best mean first.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    repeats: Counter[str] = Counter()
    for each in sorted(found, key=lambda each: each["seed"]):
        alike = json.dumps([each[key] for key in ("row", "differs", "device", "precision")], sort_keys=True)
        run = f"{alike}, seed {each['seed']}"
        groups.setdefault(f"{alike}, run {repeats[run]} of a seed", []).append(each)
        repeats[run] += 1
    return sorted(groups.values(), key=lambda runs: (
        runs[0]["row"], bool(runs[0]["differs"]), -len(runs), -fmean(run["average"] for run in runs)
    ))  # fmt: skip


def of_record(record: Mapping[str, Any], file: str) -> dict[str, Any] | None:
    """Returns the entry of a record in benchmarks/results/; None if it is of no published row on CIFAR-100.

    record: the content of the file. file: its name.
    Keys: row; record, the file; average, last, forgetting, seconds; seed, device, precision; preset: the name of the
    preset that it was trained by, "" for none; differs: {key: [value in the row's recipe, here]} of all keys of the
    recipe that have an effect and differ.
    """
    figures, conditions = record.get("figures", {}), record.get("conditions", {})
    given = conditions.get("config")
    if not given or "average_incremental_accuracy" not in figures or not is_whole(conditions, 100):
        return None
    if "class_order" not in conditions or not published_rows.has_images_of_cifar(given["data"]):
        return None
    here = {"name": "cifar100", "path": "", "storage": "auto"}  # a folder that isn't there is no configuration
    config = configuration.from_dict({**given, "data": {**given["data"], **here}})
    row = _row_of(config)
    if row is None:
        return None
    return {
        "row": row.name,
        "record": file,
        "average": figures["average_incremental_accuracy"],
        "last": figures["last_accuracy"],
        "forgetting": figures["forgetting"],
        "seconds": figures["seconds"],
        **{key: conditions[key] for key in ("seed", "device", "precision")},
        "preset": _preset_of(config),
        "differs": recipe_differences(published_rows.config_of(row), config),
    }


def is_whole(conditions: Mapping[str, Any], num_classes: int) -> bool:
    """Returns whether a record is of a run of its own that learned all these classes and was tested on the test images.

    conditions: of the record. Keys that older records don't have count as at their default.
    """
    data, run = conditions["config"]["data"], conditions["config"]["run"]
    whole = data.get("tests_on", "test") == "test" and not data.get("phases") and not run.get("extends")
    return whole and len(conditions.get("class_order", range(num_classes))) == num_classes


def recipe_differences(a: Config, b: Config) -> dict[str, list[Any]]:
    """Returns {dotted key: [a's value, b's]} of the keys of the recipe that have an effect in one of them and differ.

    Seed, device, processes and where the images are don't count. None: not set.
    """

    def effective(config: Config, key: str, value: Any) -> Any:
        _, in_first_phase, name = key.rpartition("optim.first_phase.")
        return getattr(config.optim, name) if in_first_phase and value is None else value

    found = {}
    for each in differences(a, b):
        key = each["key"]
        if each["used_by"] and not key.startswith(_NO_RECIPE):
            values = [effective(a, key, each["a"]), effective(b, key, each["b"])]
            if values[0] != values[1]:
                found[key] = [each["a"], each["b"]]
    return found


def _preset_of(config: Config) -> str:
    """Returns the name of the first preset for CIFAR-100 with the recipe of a configuration; "" if there is none."""
    names = [name for name in configuration.presets() if name.startswith("cifar")]
    return next((name for name in names if not recipe_differences(configuration.load(name), config)), "")


def _row_of(config: Config) -> Published | None:
    """Returns the row of CIFAR-100 whose protocol and method a configuration has; None if there is none."""
    if config.data.class_order != "canonical" or not isinstance(config.data.increment, int):
        return None
    for row in published.every():
        if row.group.name != _COMPARED or row.method != config.method.name or published_rows.why_not(row):
            continue
        wanted = published_rows.config_of(row)
        parts = [(each.data.initial_increment, each.data.increment, each.memory.size, each.memory.fixed_per_class,
                  each.model.backbone) for each in (config, wanted)]  # fmt: skip
        if parts[0] == parts[1]:
            return row
    return None


def markdown(recorded: Sequence[dict[str, Any]]) -> str:
    """Returns the table of recorded runs beside the published rows, as Markdown. recorded: as in recorded.json."""
    titles = ("row", "published", "ours", "difference", "seeds", "what differs in the recipe", "records")
    lines = [titles, ("---",) * len(titles)]
    for runs in grouped(recorded):
        row = published_rows.find(runs[0]["row"])
        pairs = [(fmean(run[key] for run in runs), getattr(row, key)) for key in ("average", "last")]
        lines.append((
            f"`{row.name}`",
            published_rows.numbers(row),
            _ours(runs),
            " / ".join("-" if theirs is None else f"{ours - theirs:+z.1f}" for ours, theirs in pairs),
            _seeds(runs),
            differing(runs[0]["differs"]),
            ", ".join(f"`{run['record']}`" for run in runs),
        ))  # fmt: skip
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def markdown_of_presets(recorded: Sequence[dict[str, Any]]) -> str:
    """Returns the table of the runs by presets or by a row's own recipe, as Markdown. recorded: as in recorded.json.

    One line a command: of its groups the one with most runs, then the one whose record comes first by name.
    """
    titles = ("command", "published row", "published", "ours", "seeds", "records")
    lines: dict[str, tuple[str, ...]] = {}
    groups = grouped([each for each in recorded if each["preset"] or not each["differs"]])
    for runs in sorted(groups, key=lambda runs: (
        runs[0]["row"], bool(runs[0]["differs"]), -len(runs), runs[0]["record"]
    )):  # fmt: skip
        row, preset = published_rows.find(runs[0]["row"]), runs[0]["preset"]
        command = f"train.py --config {preset}" if preset else f"-m cil_func reproduce {row.name}"
        lines.setdefault(command, (
            f"`python {command}`",
            f"`{row.name}`",
            published_rows.numbers(row),
            _ours(runs),
            _seeds(runs),
            ", ".join(f"[`{run['record']}`](benchmarks/results/{run['record']})" for run in runs),
        ))  # fmt: skip
    table = [titles, ("---",) * len(titles), *lines.values()]
    return "\n".join("| " + " | ".join(line) + " |" for line in table) + "\n"


def _ours(runs: Sequence[Mapping[str, Any]]) -> str:
    """Returns "average / last" of a group of runs, each with the deviation of a sample if there are several."""
    return " / ".join(several.text(several.spread([run[key] for run in runs])) for key in ("average", "last"))


def _seeds(runs: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(str(run["seed"]) for run in runs)


def differing(differs: Mapping[str, Sequence[Any]]) -> str:
    """Returns in words which keys differ from a row's recipe; "nothing" if none does.

    Method, memory and epochs have both values, "`optim.epochs` 170 -> 25"; other keys are named alone.
    """

    def text(value: Any) -> str:
        return "not set" if value is None else json.dumps(value)

    whole = [key for key in differs if key.startswith(("method.", "memory.")) or key == "optim.epochs"]
    pairs = [f"`{key}` {text(differs[key][0])} -> {text(differs[key][1])}" for key in whole]
    others = dict.fromkeys(
        "optim.first_phase" if key.startswith("optim.first_phase.") else key for key in differs if key not in whole
    )
    return ", ".join([*pairs, *(f"`{key}`" for key in others)]) or "nothing"
