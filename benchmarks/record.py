"""Stores a finished run's figures in the repository: `python -m benchmarks.record RUN_DIR NAME [--commit HASH]`.

Prints the phase table and writes benchmarks/results/NAME-<device>.json, or --json PATH: all figures that a page may
quote, with the configuration, the versions and the commit that they come from, and where the run was begun and gone on
with. A record in benchmarks/results/ may stand beside a published row: the tables of such rows are written anew.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import recorded
from benchmarks.measure import RESULTS, head
from cil_func.errors import CheckpointError, CilError
from cil_func.report import tables
from cil_func.runs import event_log, files, status

SUMMARY = ("average_incremental_accuracy", "last_accuracy", "forgetting")
COLUMNS = ("top1", "nme_top1", "gamma", "top1_before_align", "new_share", "new_share_before_align")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the directory of a finished run")
    parser.add_argument("name")
    parser.add_argument("--commit", help="what was run; default: the commit checked out now")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    try:
        results = finished(options.run)
        began = sittings(events(options.run))
    except CilError as error:
        print(f"record: {error}", file=sys.stderr)
        return 2
    device = results["config"]["run"]["device"]
    of_each = {key: dict.fromkeys(each[key] for each in began) for key in ("device", "precision")}
    path = options.json or RESULTS / f"{options.name}-{device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(
        path,
        {
            "name": options.name,
            "figures": figures(results),
            "conditions": {
                **results["environment"],
                **{key: ", then ".join(names) for key, names in of_each.items() if len(names) > 1},
                "sittings": began,
                "commit": options.commit or head(),
                "method": results["method"],
                "seed": results["seed"],
                "class_order": results["class_order"],
                "config": portable(results["config"]),
            },
        },
    )
    if path.resolve().parent == RESULTS.resolve():
        recorded.refresh()
    print(tables.phase_table(results))
    print(path)
    return 0


def finished(run: Path) -> dict:
    """Returns the results.json of a run directory. Raises CheckpointError if it has none, or is not finished.

    results.json is written after each phase: that of a stopped run looks like that of a shorter protocol.
    """
    state, results = status.read(run).get("state"), files.read_object(run / "results.json")
    if not results:
        raise CheckpointError(f"{run} holds no results.json that can be read")
    if state != "finished":
        raise CheckpointError(f"{run} is not finished (its state: {state or 'unknown'}); go on with it first")
    return results


def events(run: Path) -> list[dict]:
    """Returns the content of a run directory's metrics.jsonl. Raises CheckpointError if it can't be read."""
    try:
        return event_log.read(run / "metrics.jsonl")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{run} holds no metrics.jsonl that can be read ({error}); put a copy back") from None


def sittings(events: Sequence[dict]) -> list[dict]:
    """Returns where each process that trained a run began: device, precision, phase and epoch, in order.

    events: the content of metrics.jsonl. Phases and epochs count from 0.
    """
    return [
        {"device": each["device"], "precision": each["precision"], "phase": each.get("phase", 0),
         "epoch": each.get("epoch", 0)}
        for each in events
        if each["event"] in ("run_start", "resume")
    ]  # fmt: skip


def portable(config: dict) -> dict:
    """Returns a configuration without this machine's paths.

    data.path and data.packed are "", model.weights and run.extends the name alone; files of this repository are
    relative, and of other absolute paths, as those of own functions, the name alone is left.
    """
    network, run = config.get("model", {}), config["run"]
    own = {
        "data": config["data"] | {"path": "", "packed": ""},
        "model": {**network, "weights": Path(network.get("weights", "")).name},
        "run": run | {"extends": Path(run.get("extends", "")).name},
    }
    text = json.dumps({**config, **own})
    return _names_alone(json.loads(text.replace(f"{RESULTS.parents[1]}/", "")))


def _names_alone(value: Any) -> Any:
    """Returns a value of JSON with the name alone in place of each absolute path."""
    if isinstance(value, dict):
        return {key: _names_alone(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_names_alone(each) for each in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def figures(results: dict) -> dict:
    """Returns {name: number or None} of a run: the summary, the seconds in all, and COLUMNS for each phase.

    results: the content of results.json. None: results.json has no number there, as gamma in phase 0.
    """
    found = {key: results[key] for key in SUMMARY}
    found["seconds"] = sum(sum(row["seconds"].values()) for row in results["phases"])
    for row in results["phases"]:
        found |= {f"{column}_phase_{row['phase']}": row[column] for column in COLUMNS}
        found[f"fair_share_phase_{row['phase']}"] = row["fair_share"]
    return found


if __name__ == "__main__":
    sys.exit(main())
