"""Why a run prefers its newest classes: `python -m benchmarks.prior RUN_DIR NAME [--data FOLDER] [--json PATH]`.

In the last phase a new class has many more training images than an old class has exemplars. A classifier that has
learned little else predicts by this prior. Then the accuracy rises if the logits of the newest classes are lowered by
the log of the ratio of images per class. It doesn't rise if the features are bad as well. Prints both accuracies, and
the mean cosine of the newest rows with the mean feature, which aligning the lengths of rows can't change.
"""

import argparse
import json
import math
from pathlib import Path

import torch

from benchmarks.record import RESULTS, head
from cil_func import config, memory, metrics, tree
from cil_func.networks.network import Model
from cil_func.runs import checkpoints, environment, files, setup


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the directory of a finished run")
    parser.add_argument("name")
    parser.add_argument("--data", default="", help="data.path, if it isn't the run's own")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    ready = setup.build(config.load(str(options.run / "config.toml"), ["run.compile=false", *_path(options.data)]))
    results = json.loads((options.run / "results.json").read_text(encoding="utf-8"))
    found = figures(ready, options.run, results["phases"][-1])
    for name, value in found.items():
        print(f"{name:<32} {value:8.3f}")
    device, precision = ready.experiment.device, ready.config.run.precision
    path = options.json or RESULTS / f"{options.name}-{device.type}.json"
    versions = environment.environment(device, precision, ready.processes.size)
    conditions = {**versions, "commit": head(), "run": options.run.name}
    files.write_json(path, {"name": options.name, "figures": found, "conditions": conditions})
    return 0


def figures(ready: setup.Setup, run: Path, last: dict) -> dict[str, float]:
    """Measures a finished run's saved model on all test images. Returns {name of a figure: number}.

    Accuracies are in percent: of the model as it is, with the newest classes' logits lowered ("top1_prior_removed"),
    among old and among new classes alone. ready: the run. run: its directory. last: the results of its last phase.
    """
    made, (params, state, *_) = ready.experiment, checkpoints.load_model(run)
    newest, labels = made.scenario.phases[-1], made.scenario.test_labels
    rows, model = torch.arange(len(made.test_images)), Model(*tree.cast((params, state), device=made.device))
    features = made.forward.features(model, made.test_images, rows, when=str(run))
    logits = made.network.outputs(params, features, made.classes(newest)).logits   # (N, K)
    num_old = last["classes_seen"] - last["num_new"]
    images = len(newest.train_rows) / last["num_new"]
    # the exemplars of an old class while the last phase was trained; the prior of none is removed as that of one
    kept = max(1, memory.quota(num_old, size=made.budget.size, fixed_per_class=made.budget.fixed_per_class))
    is_new = torch.arange(logits.shape[1]) >= num_old
    lowered = logits - math.log(images / kept) * is_new
    old, weight = labels < num_old, params["classifier"]["weight"]
    cosine = torch.nn.functional.cosine_similarity(weight, features.mean(0)[None], dim=1)
    return {
        "top1": metrics.accuracy(logits, labels),
        "top1_prior_removed": metrics.accuracy(lowered, labels),
        "log_ratio_of_images": math.log(images / kept),
        "nme_top1": last["nme_top1"],
        "old_among_old_top1": metrics.accuracy(logits[old][:, :num_old], labels[old]),
        "new_among_new_top1": metrics.accuracy(logits[~old][:, num_old:], labels[~old] - num_old),
        "cosine_old_rows_mean_feature": cosine[:num_old].mean().item(),
        "cosine_new_rows_mean_feature": cosine[num_old:].mean().item(),
    }


def _path(data: str) -> list[str]:
    return [f"data.path={json.dumps(data)}"] if data else []


if __name__ == "__main__":
    raise SystemExit(main())
