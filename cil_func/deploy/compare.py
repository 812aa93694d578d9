"""The command `python -m cil_func compare OLD NEW`: what got better and worse between two models, class by class."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from cil_func.config.parser import Parser
from cil_func.deploy import compare_page, compare_text, comparison, edit_history, labelled, predictor
from cil_func.deploy.answering import answered
from cil_func.deploy.edit_history import NameOf
from cil_func.deploy.labelled import Labelled
from cil_func.deploy.predictor import Predictor
from cil_func.errors import ConfigError, DataError, printable
from cil_func.runs import files, output

NAME = "compare"
WORSE = 1  # the exit status if a class has fallen too far


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns its exit status.

    arguments: the flags, without the program's name; None: those of this process.
    0: compared. 1: with --worse-by, a kept class has fallen by more. 2: a wrong flag or directory, or no common class.
    3: the images are missing, or with --worse-by a kept class has none. 5: a run is not finished, or its model is
    damaged. 74: --out can't be written.
    """
    return answered(NAME, lambda: _compare(_parse(arguments)))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m cil_func compare", description=__doc__, allow_abbrev=False)
    parser.add_argument("old", metavar="OLD", type=Path, help="the directory of the older finished run")
    parser.add_argument("new", metavar="NEW", type=Path, help="that of the newer one")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument(
        "--worse-by", type=_points, metavar="POINTS", help="exit with 1 if a class that both know falls by more"
    )
    parser.add_argument("--data", metavar="FOLDER", help="test images, one folder a class; default: those of NEW")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write compare.json and compare.html into DIR")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute")
    return parser.parse_args(arguments)


def _points(text: str) -> float:
    """Returns the number behind --worse-by. Raises ArgumentTypeError unless it is in 0..100."""
    try:
        points = float(text)
    except ValueError:
        points = -1.0
    if not 0 <= points <= 100:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; a number in 0..100")
    return points


def _compare(options: argparse.Namespace) -> int:
    """Does what the flags ask for and returns the exit status."""
    options.old, options.new = _home(options.old), _home(options.new)
    models = [predictor.load(run, device=options.device) for run in (options.old, options.new)]
    old, new = models
    renamed = edit_history.renames_since(old.saved.description, new.saved.description)
    old_names = [renamed(name) for name in old.class_names]
    if not set(old_names) & set(new.class_names):
        raise ConfigError(
            f"{options.old} and {options.new} have no class of the same name, so there is nothing to compare; "
            f"they know {_few(old.class_names)} and {_few(new.class_names)}"
        )
    calibrated = [run for run, model in zip((options.old, options.new), models, strict=True) if model.calibration]
    if len(calibrated) == 1:
        _warn(f"only {calibrated[0]} is calibrated, so the calibration errors of the two say nothing about training")
    found = compare(old, new, _images(options, [*old_names, *new.class_names], renamed), old_names)
    result = {"models": {"before": str(options.old), "after": str(options.new)}, **found}
    _refuse_untested(result, gate=options.worse_by is not None)
    if options.out:
        out = _home(options.out)
        files.make_directory(out)
        files.write_json(out / "compare.json", result)
        files.write_text(out / "compare.html", compare_page.page(result))
    fallen = [] if options.worse_by is None else comparison.fallen(result, options.worse_by)
    for each in fallen:
        _warn(f"{each['name']} has fallen by {-each['change']:.1f} points, more than {options.worse_by:g}")
    status = WORSE if fallen else 0
    output.say(json.dumps(result, indent=2) if options.json else compare_text.text(result), status)
    return status


def compare(old: Predictor, new: Predictor, parts: Sequence[Labelled], old_names: Sequence[str]) -> dict[str, Any]:
    """Returns what `comparison.compare` returns for two models on the same images, and which of these can't be read.

    parts: the images, each of a class that one of the models knows. old_names: of the older model's classes, as the
    newer one names them, from `edit_history.renames_since`; the result has them as people know them. An image that one
    of them can't read is left out for both; "unread" counts these.
    """
    names: list[str] = []
    answers: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])  # of each model, its probabilities (K,)
    unread = 0
    for part in parts:
        given = [_probabilities(model, part.images) for model in (old, new)]
        both = [row for row in range(len(part.names)) if all(row in found for found in given)]
        unread += len(part.names) - len(both)
        names += [part.names[row] for row in both]
        for into, found in zip(answers, given, strict=True):
            into += [found[row] for row in both]
    said = [
        comparison.answers_of(known, torch.stack(found) if found else torch.zeros(0, len(known)))
        for known, found in zip((old_names, new.class_names), answers, strict=True)
    ]
    result = comparison.compare(names, *said)
    classes = [{**each, "name": edit_history.plain(each["name"])} for each in result["classes"]]
    return {**result, "classes": classes, "unread": unread}


def _probabilities(model: Predictor, images: Sequence[Any]) -> dict[int, torch.Tensor]:
    """Returns {row: probabilities (K,)} of the images that the model can read."""
    found: dict[int, torch.Tensor] = {}
    for answers in model.answers(images):
        found |= dict(zip(answers.rows, answers.probabilities, strict=True))
    return found


def _images(options: argparse.Namespace, wanted: Sequence[str], since: NameOf) -> list[Labelled]:
    """Returns the test images of the wanted classes: of --data, or of the data of NEW.

    Classes that these lack come from the data of the runs that NEW has gone on from, of OLD, and of those that OLD has
    gone on from. wanted: of OLD, then of NEW. since: from the names in OLD to those in NEW.
    Raises ConfigError if NEW has no configuration, DataError if there is no image.
    """
    if options.data:
        called = {edit_history.plain(name): name for name in wanted}  # by two classes: that of NEW
        given = labelled.of_folder(options.data)
        return labelled.known([given.renamed(lambda name: called.get(name, name))], wanted)
    parts: list[Labelled] = []
    reasons = []
    runs = _line(options.new, lambda name: name)
    runs |= {run: name_of for run, name_of in _line(options.old, since).items() if run not in runs}
    for run, name_of in runs.items():
        if set(wanted) - {name for part in parts for name in part.names}:
            try:
                parts.append(labelled.of_run(run).renamed(name_of))
            except DataError as error:
                reasons.append(f"{run}: {error}")
            except ConfigError as error:  # a run that was moved or deleted; another one may have the images
                if run == options.new:
                    raise
                reasons.append(str(error))
    if not parts:
        raise DataError(f"{'; '.join(reasons)}; or give the test images by --data FOLDER")
    for reason in reasons:
        _warn(reason)
    return labelled.known(parts, wanted)


def _line(run: Path, name_of: NameOf) -> dict[Path, NameOf]:
    """Returns the runs whose data a model has learned, a run and those that it has gone on from, the newest first.

    With each comes the function from the names in its data to those in NEW. name_of: from the names in the run.
    """
    found: dict[Path, NameOf] = {}
    before: Path | None = run
    while before and before not in found:
        name_of = edit_history.after(edit_history.renames(edit_history.described(before)), name_of)
        found[before] = name_of
        before = labelled.extended_by(before)
    return found


def _refuse_untested(result: dict[str, Any], *, gate: bool) -> None:
    """Warns about classes without an image and images that can't be read.

    Raises DataError if no kept class has an image, or with `gate` if one has none: it must not pass untested.
    """
    kept = {each["name"] for each in result["classes"] if each["kind"] == "kept"}
    untested = [name for name in result["untested"] if name in kept]
    if untested and (gate or len(untested) == len(kept)):
        raise DataError(f"no test image of {_few(untested)}, which both know; give --data FOLDER with images of them")
    if result["untested"]:
        _warn(f"no test image of {_few(result['untested'])}")
    if result["unread"]:
        _warn(f"{result['unread']} images can't be read and are left out")


def _few(names: Sequence[str]) -> str:
    """Returns the first three names and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _warn(line: str) -> None:
    output.tell(f"{NAME}: {printable(line)}")


def _home(path: Path) -> Path:
    """Returns a path with its "~" replaced; pathlib's own raises RuntimeError where there is no such user."""
    return Path(os.path.expanduser(path))
