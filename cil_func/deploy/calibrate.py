"""The command `python -m cil_func calibrate RUN FOLDER`: what images that training has not seen say about a model.

It writes RUN/calibration.safetensors: the temperature by which `predict` and `export` make percentages mean what they
say, and what `predict --reject` compares with. The class that is predicted doesn't change.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cil_func import metrics
from cil_func.config.parser import Parser
from cil_func.data.reading import class_folders, listing
from cil_func.deploy import calibration, export, predictor
from cil_func.deploy.answering import answered
from cil_func.deploy.calibration import Calibration, Reject
from cil_func.deploy.listing import image_files
from cil_func.deploy.predictor import Predictor
from cil_func.errors import ConfigError, DataError, Mistakes, printable
from cil_func.runs import output
from cil_func.training import calibrating

_FEWEST = 4  # images of a class: two to fit on, two to measure on
_SHOWN_QUANTILE = 0.95


class Outputs(NamedTuple):
    """What a model says about N images: logits (N, K), features (N, D); labels (N,), -1 for an unknown class."""

    logits: torch.Tensor
    features: torch.Tensor
    labels: torch.Tensor

    def at(self, rows: torch.Tensor) -> "Outputs":
        """Returns those of some images. rows: a mask (N,) bool, or their numbers."""
        return Outputs(*(part[rows] for part in self))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns its exit status.

    arguments: the flags, without the program's name; None: those of this process.
    0: the file is written. 2: a wrong flag or RUN. 3: the images don't fit. 5: the run is not finished, or its model is
    damaged. 74: the file can't be written.
    """
    return answered("calibrate", lambda: _calibrate(_parse(arguments)))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m cil_func calibrate", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="the directory of a finished run")
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        help="holds a folder of images for each class; training must not "
        "have seen them. Folders of other classes measure how many images are found to be unknown.",
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute")
    return parser.parse_args(arguments)  # fmt: skip


def _calibrate(options: argparse.Namespace) -> int:
    """Does what the flags ask for and returns the exit status."""
    directory = Path(os.path.expanduser(options.run))
    if (directory / export.PREPROCESSOR).exists():
        raise ConfigError(f"{directory} is an export; calibrate the run that it was made of, and export that again")
    model = predictor.load(options.run, device=options.device, calibrated=False)
    outputs = read(model, options.folder)
    found = outputs.at(outputs.labels >= 0)
    report = measure(model, outputs)
    result = fit(model, found)._replace(report=report)
    calibration.save(directory, result, model_sha256=model.saved.description["sha256"])
    output.say("\n".join(_lines(result)))
    output.say(printable(f"written to {directory / calibration.NAME}"))
    return 0


def read(model: Predictor, folder: str) -> Outputs:
    """Runs the model over the images in folder/<class>/** and returns what it says.

    Raises DataError for a class without at least 4 images, for images that can't be read, for a missing folder, and for
    one that has the folders of the classes in its test/, val/ or train/.
    """
    numbers = {name: k for k, name in enumerate(model.class_names)}
    mistakes = Mistakes()
    files: list[str] = []
    labels: list[int] = []
    counts = dict.fromkeys(numbers, 0)
    names = class_folders.find(folder, mistakes.lines)
    deeper = [part for part in ("test", "val", "train") if part in names]
    if deeper and numbers.keys().isdisjoint(map(listing.text_of, names)):
        raise DataError(
            f"{folder}: no folder in it is called as a class, such as {model.class_names[0]!r}; give one with "
            f"a folder for each class, maybe {Path(folder) / deeper[0]}"
        )
    for name, on_disk in sorted(names.items()):
        own, refused = image_files([str(Path(folder) / on_disk)])
        mistakes.lines += [f"{path}: {reason}" for path, reason in refused.items()]
        label = numbers.get(listing.text_of(name), -1)
        files += own
        labels += [label] * len(own)
        if label >= 0:
            counts[model.class_names[label]] = len(own)
    few = [f"{name!r} {count}" for name, count in counts.items() if count < _FEWEST]
    if few:
        more = f" and {len(few) - 5} more classes" if len(few) > 5 else ""
        mistakes.lines.append(f"{folder}: images of {', '.join(few[:5])}{more}; give {_FEWEST} or more of each class")
    mistakes.refuse()
    parts: list[tuple[torch.Tensor, torch.Tensor]] = []
    for group in model.groups(files):
        mistakes.lines += [f"{files[row]}: {reason}" for row, reason in group.unread.items()]
        parts.append(model.scorer.outputs(group.pixels))
    mistakes.refuse()
    logits, features = map(torch.cat, zip(*parts, strict=True))
    return Outputs(logits, features, torch.tensor(labels))


def fit(model: Predictor, outputs: Outputs) -> Calibration:
    """Returns the calibration of a model by images of its classes, at least 2 of each. Its report is empty.

    Distances are measured to the class means that the model predicts by; to the mean of the other images of the class
    if it has none.
    """
    logits, features, labels = outputs
    scores = model.scorer.judged(logits, features)
    temperature = calibrating.fit_temperature(scores, labels)
    strangeness = calibration.strangeness_of(logits, (scores.double() / temperature).softmax(1))
    means = model.saved.means
    if means is None:
        means = metrics.class_means(features, labels, len(model.class_names))
        strangeness["distance"] = calibration.distances_left_out(features, labels, len(means))
    else:
        strangeness["distance"] = -metrics.nme_scores(features, means).gather(1, labels[:, None])[:, 0]
    return Calibration(temperature, labels, strangeness, means, {})


def measure(model: Predictor, outputs: Outputs) -> dict[str, Any]:
    """Returns what calibrating does, fitted on every second image of each class and measured on the others.

    outputs: of held-out images; those of label -1 are of classes that the model doesn't know.
    Keys: images; top1, in percent; ece_before and ece_after, fractions; quantile, false_rejection {rule: share of the
    images of known classes that are called unknown}, detection {rule: share of the unknown ones}, None without any.
    """
    place = torch.zeros(len(outputs.labels), dtype=torch.long)
    for label in outputs.labels.unique():
        rows = (outputs.labels == label).nonzero()[:, 0]
        place[rows] = torch.arange(len(rows))
    known = outputs.labels >= 0
    rest, unknown = outputs.at(known & (place % 2 == 1)), outputs.at(~known)
    fitted = Predictor(model.scorer, model.reader, fit(model, outputs.at(known & (place % 2 == 0))))
    scores = model.scorer.judged(rest.logits, rest.features)
    correct = scores.argmax(1) == rest.labels
    before, after = (each.probabilities(scores).amax(1) for each in (model, fitted))

    def rejected(some: Outputs, rule: str) -> float | None:
        if not len(some.labels):
            return None
        return 1 - fitted.known(some.logits, some.features, Reject(_SHOWN_QUANTILE, rule)).double().mean().item()

    return {
        "images": int(known.sum()),
        "unknown_images": len(unknown.labels),
        "top1": metrics.accuracy(scores, rest.labels),
        "ece_before": metrics.expected_calibration_error(before, correct),
        "ece_after": metrics.expected_calibration_error(after, correct),
        "quantile": _SHOWN_QUANTILE,
        "false_rejection": {rule: rejected(rest, rule) for rule in calibration.RULES},
        "detection": {rule: rejected(unknown, rule) for rule in calibration.RULES},
    }


def _lines(result: Calibration) -> Sequence[str]:
    """Returns what a person should know of a calibration, as lines."""
    report = result.report
    lines = [
        f"temperature {result.temperature:.3f}, from {report['images']} images of known classes",
        f"fitted on one half of them and measured on the other: top-1 {report['top1']:.1f} %, expected calibration "
        f"error {100 * report['ece_before']:.1f} % before, {100 * report['ece_after']:.1f} % after",
    ]
    for rule in calibration.RULES:
        wrongly, rightly = report["false_rejection"][rule], report["detection"][rule]
        found = "" if rightly is None else f", {100 * rightly:.1f} % of {report['unknown_images']} unknown ones"
        lines.append(f"--reject {report['quantile']} --reject-by {rule}: calls {100 * wrongly:.1f} % of images of "
                     f"known classes unknown{found}")  # fmt: skip
    return lines
