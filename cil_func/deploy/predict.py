"""The command `python -m cil_func predict RUN PATH...`: one line for each image, with its classes and percentages."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress as ProgressBar

from cil_func.config.parser import Parser
from cil_func.deploy import calibration, listing, predictor
from cil_func.deploy.answering import answered
from cil_func.deploy.calibration import Reject
from cil_func.deploy.predictor import Predictor
from cil_func.errors import ConfigError, DataError, printable
from cil_func.runs import output

NAME = "predict"
UNKNOWN = "unknown"


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns its exit status.

    arguments: the flags, without the program's name; None: those of this process.
    0: all images are answered. 2: a wrong flag or RUN. 3: there is no image, or some can't be read: each is named on
    stderr, with --json on stdout too, and the others are answered. 5: the run is not finished, or its model is damaged.
    """
    return answered(NAME, lambda: _predict(_parse(arguments)))


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m cil_func predict", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="the directory of a finished run")
    parser.add_argument("paths", metavar="PATH", nargs="+", help="image files, and folders searched for images")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="name the K most probable classes; default 1")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--flips", action="store_true", help="average over each image and its mirror image")
    parser.add_argument("--reject", type=float, metavar="Q", help="answer unknown for images stranger than the share Q "
                        "of held-out ones of each class, such as 0.95")  # fmt: skip
    parser.add_argument("--reject-by", choices=calibration.RULES, default="nearest", help="what strange means")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute")
    return parser.parse_args(arguments)


def _predict(options: argparse.Namespace) -> int:
    """Does what the flags ask for and returns the exit status: 3 if an image can't be read, else 0."""
    model = predictor.load(options.run, device=options.device)
    known = len(model.class_names)
    if not 1 <= options.top <= known:
        raise ConfigError(f"--top {options.top}: the model knows {known} classes; give 1 to {known}")
    if options.reject is not None and not 0 < options.reject <= 1:
        raise ConfigError(f"--reject {options.reject:g}: give a share above 0, at most 1; 0.95 is usual")
    reject = None if options.reject is None else Reject(options.reject, options.reject_by)
    if reject:
        calibration.required(model.calibration)
    files, refused = listing.image_files(options.paths)
    for path, reason in refused.items():
        _tell_unread(path, reason, as_json=options.json)
    status = DataError.exit_status if refused else 0
    for path, found in _answers(model, files, flips=options.flips, reject=reject):
        if isinstance(found, str):
            status = DataError.exit_status
            _tell_unread(path, found, as_json=options.json)
        else:
            output.say(_line(path, *found, model.class_names, top=options.top, as_json=options.json), status)
    return status


def _answers(
    model: Predictor, files: Sequence[str], *, flips: bool, reject: Reject | None
) -> Iterator[tuple[str, tuple[torch.Tensor, bool] | str]]:
    """Yields (file, (probabilities (K,), whether it may be of a known class)) in order. Shows the progress.

    For a file that can't be read it yields (file, reason).

    The bar is on stderr, and only if that is a terminal and stdout is not: there, the lines themselves are seen.
    """
    seen = sys.stderr.isatty() and not sys.stdout.isatty()
    console = Console(stderr=True)
    with ProgressBar(console=console, transient=True, disable=not seen, redirect_stdout=False) as bar:
        task = bar.add_task("images", total=len(files))
        for answers in model.answers(files, flips=flips, reject=reject):
            pairs = zip(answers.probabilities, answers.known.tolist(), strict=True)
            found: dict[int, Any] = dict(zip(answers.rows, pairs, strict=True)) | answers.unread
            yield from ((files[row], found[row]) for row in sorted(found))
            bar.advance(task, len(found))


def _line(path: str, probabilities: torch.Tensor, known: bool, names: Sequence[str], *, top: int, as_json: bool) -> str:
    """Returns the line of an image: its path, then the class and the percentage of each of the `top` best, by tabs.

    probabilities: (K,). known: False puts UNKNOWN in the place of all that. With as_json it is an object: path, class,
    probability, top (a list of such pairs); with known false, class is null, and top has what would have been answered.
    """
    order = sorted(range(len(names)), key=lambda k: -probabilities[k].item())[:top]  # of equal ones the first
    if as_json:
        best = [{"class": names[k], "probability": probabilities[k].item()} for k in order]
        answer = best[0] if known else {"class": None, "probability": None}
        return json.dumps({"path": path, **answer, "known": known, "top": best})
    if not known:
        return printable_line([path, UNKNOWN])
    return printable_line([path, *(text for k in order for text in (names[k], f"{100 * probabilities[k]:.1f}%"))])


def printable_line(cells: Sequence[str]) -> str:
    """Returns cells joined by tabs, what can't be printed in them escaped."""
    return "\t".join(map(printable, cells))


def _tell_unread(path: str, reason: str, *, as_json: bool) -> None:
    """Prints that a path can't be used: a line on stderr, and with as_json an object on stdout too."""
    try:
        if as_json:
            output.say(json.dumps({"path": path, "error": reason}), DataError.exit_status)
        output.flush(DataError.exit_status)  # in order, where both go to one place
    finally:
        output.tell(f"{NAME}: {printable(f'{os.fspath(path)}: {reason}')}")
