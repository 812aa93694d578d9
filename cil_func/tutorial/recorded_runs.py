"""The runs that chapter 8 draws: six methods with three seeds each, on the data and the network of `whole_runs`.

    python -m cil_func.tutorial.recorded_runs      trains them all and writes recorded_runs.json beside this file

That takes about three minutes on one core. Loss and memory are those of the preset digits.toml; the network is
smaller, and the phases are fewer and larger.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from cil_func.tutorial import whole_runs

FILE = Path(__file__).with_suffix(".json")
METHODS = ("joint", "icarl", "wa", "replay", "lwf", "finetune")
SEEDS = (0, 1, 2)
SETTINGS = ("method.kd_combination=sum", "method.kd_weight=2", "memory.size=20", "optim.epochs=40")
BY_PHASE = ("top1", "nme_top1", "top1_before_align")
SUMMARY = ("average_incremental_accuracy", "last_accuracy", "forgetting")


def load() -> dict[str, list[dict[str, Any]]]:
    """Returns {method: a dict for each seed}.

    Keys of a dict: "seed"; those of BY_PHASE, a number or None for each phase; those of SUMMARY.
    """
    return json.loads(FILE.read_text(encoding="utf-8"))["methods"]


def main() -> int:
    """Trains all runs and writes the file. Returns the exit status."""
    methods: dict[str, list[dict[str, Any]]] = {}
    for method in METHODS:
        methods[method] = [_run(method, seed) for seed in SEEDS]
        print(f"{method:<9} last {[round(run['last_accuracy'], 1) for run in methods[method]]}", flush=True)
    conditions = {"settings": [*whole_runs.SETTINGS, *SETTINGS], "torch": torch.__version__, "device": "cpu"}
    content = {**conditions, "methods": methods}
    FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


def _run(method: str, seed: int) -> dict[str, Any]:
    results = whole_runs.learn(*SETTINGS, f"method.name={method}", f"run.seed={seed}").results
    by_phase = {key: [row[key] for row in results["phases"]] for key in BY_PHASE}
    return {"seed": seed, **by_phase, **{key: results[key] for key in SUMMARY}}


if __name__ == "__main__":
    sys.exit(main())
