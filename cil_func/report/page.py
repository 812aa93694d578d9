"""Makes report.html of one run: its figures and tables, each with a sentence that says how to read it."""

import shlex
from collections.abc import Mapping
from typing import Any

from cil_func.report import by_class, lines, markup, published, tables
from cil_func.report.axes import Results
from cil_func.report.markup import Section
from cil_func.report.material import Exemplars, Material
from cil_func.report.time_left import duration

FILE = "report.html"
ON_VALIDATION = "All accuracies are of validation images (data.tests_on); the test images are unseen."
_KEPT = (("average_incremental_accuracy", "average"), ("last_accuracy", "last"))
_METHODS = ("replay", "finetune")  # what a method is compared with first

_CAPTIONS = {
    "accuracy.svg": "Top-1 accuracy on all classes seen so far. A method that forgets falls faster.",
    "matrix.svg": "Row i, column j: accuracy on the classes of phase j after phase i. Reading a column downwards shows "
    "how these classes are forgotten.",
    "forgetting.svg": "The columns of the matrix as lines, and what the classes of each phase have lost at the end.",
    "confusion.svg": "Each row: how the images of a class were classified after the last phase. Colours grow with the "
    "square root of the percentage. Lines are borders between phases. A dark block on the right means that old classes "
    "are taken for the newest.",
    "classes.svg": "Ring: accuracy after the phase that brought the class. Point: accuracy after the last phase.",
    "shares.svg": "How often the model names one of the newest classes. Above the fair share it prefers them, which is "
    "what aligning corrects.",
    "norms.svg": "A class with a longer row of weights gets higher logits. Aligning scales the rows of the newest "
    "classes to the mean norm of the old ones.",
    "reliability.svg": "How often predictions of a certain confidence are right. Below the diagonal the model is surer "
    "than it should be. A temperature, fitted on images kept by data.validation, divides the logits and corrects that.",
    "loss.svg": "Loss and accuracy on the training images, augmented. They start anew in each phase.",
    "rates.svg": "Learning rate and speed of each epoch.",
    "steps.svg": "Mean norms over the steps of an epoch: of the gradient, of the update and of all trained weights.",
}
_SECTIONS = {
    "accuracy": ("Accuracy by phase", ("accuracy.svg",)),
    "forgetting": ("Forgetting", ("matrix.svg", "forgetting.svg")),
    "classes": ("Class by class", ("confusion.svg", "classes.svg")),
    "bias": ("Preference for new classes", ("shares.svg", "norms.svg")),
    "calibration": ("Calibration", ("reliability.svg",)),
    "training": ("Training", ("loss.svg", "rates.svg", "steps.svg")),
}


def make(run: Material, figures: Mapping[str, bytes | None]) -> bytes:
    """Returns the page. figures: {name: SVG}; one that is missing or None is left out."""
    shown = {
        key: [part for name in names for part in markup.figure(figures.get(name), _CAPTIONS[name])]
        for key, (_, names) in _SECTIONS.items()
    }
    shown["accuracy"] += published_parts(run.results)
    rows = by_class.class_rows(run.results, run.log)
    if any(row[4] is not None for row in rows):
        titles = ("class", "name", "phase", "when learned, %", "now, %", "change", "mostly taken for")
        shown["classes"].append(markup.table(titles, rows, words=("name", "mostly taken for")))
    sections = [Section("phases", "Phases", _phases(run.results))]
    sections += [Section(key, title, shown[key]) for key, (title, _) in _SECTIONS.items()]
    sections += [
        Section("exemplars", "Exemplars", _exemplars(run)),
        Section("configuration", "Configuration", _table_of((run.results.get("config") or {}), "key", "value")),
        Section("environment", "Environment", _table_of(_environment(run.results), "what", "value")),
        Section("lineage", "Lineage", _table_of(run.lineage, "what", "value")),
        Section("next", "What to run next", [_next(run)]),
    ]
    return markup.document(tables.title(run.results), _intro(run), sections)


def _intro(run: Material) -> list[str]:
    """Returns the run in numbers, and notes if it isn't finished or was not measured on test images."""
    results = run.results
    last = results["phases"][-1]
    seconds = sum(sum(row.get("seconds", {}).values()) for row in results["phases"])
    kept = results.get("validation") or {}
    values = {
        "average incremental accuracy": f"{tables.number(results.get('average_incremental_accuracy'))} %",
        "last accuracy": f"{tables.number(results.get('last_accuracy'))} %",
        "forgetting": f"{tables.number(results.get('forgetting'))} points",
        **{f"{name}, on validation images": f"{tables.number(kept.get(key))} %" for key, name in _KEPT if kept},
        "phases, classes": f"{len(results['phases'])}, {last['classes_seen']}",
        "exemplars": str(last.get("memory_size", "-")),
        "time": duration(seconds),
    }
    parts = [markup.paragraph(f"Run directory: {run.directory}"), markup.tiles(values)]
    if tables.on_validation_images(results):
        parts.insert(1, markup.paragraph(ON_VALIDATION))
    if results.get("held_out"):
        parts.insert(1, markup.paragraph(f"Of the old classes, {tables.on_exemplars(results)}."))
    if run.state and run.state != "finished":
        parts.insert(0, markup.paragraph(f"This run is not finished: {run.state}."))
    return parts


def _phases(results: Results) -> list[str]:
    """Returns the table of phases with the names of their classes, and what its columns mean."""
    columns = tables.columns_of(results)
    names = results.get("class_names") or results.get("class_order") or []
    titles = [*(column.title for column in columns), "new classes"]
    rows = [
        [
            *(column.cell(row) for column in columns),
            lines.names_text([str(name) for name in names[row["classes_seen"] - row["num_new"] : row["classes_seen"]]]),
        ]
        for row in results["phases"]
    ]
    meanings = {column.title: column.meaning for column in columns if column.meaning}
    return [markup.table(titles, rows, words=("new classes",)), markup.legend(meanings)]


def published_parts(results: Results, own: str = "this run") -> list[str]:
    """Returns a table of the published results under a run's own; [] if its protocol was not published.

    results: of the run. own: what its row is called.
    """
    protocol = published.protocol_of(results)
    if protocol is None:
        return []
    rows: list[list[Any]] = [
        [
            row.method,
            *("-" if value is None else "~" * row.uncertain + f"{value:.1f}" for value in (row.average, row.last)),
            row.source,
        ]
        for row in published.rows(protocol)
    ]
    name = f"{results.get('method', '-')}, {own}"
    mine = [name, results.get("average_incremental_accuracy"), results.get("last_accuracy"), ""]
    about = (
        f"Published results of CIFAR-100, {protocol}, with ResNet-32 and 2,000 exemplars. Their training recipes and "
        "augmentation differ, also for one method. ~: read off with less certainty."
    )
    titles = ("method", "average, %", "last, %", "source")
    return [markup.paragraph(about), markup.table(titles, [mine, *rows], words=("method", "source"), own=name)]


def _exemplars(run: Material) -> list[str]:
    """Returns a line of images for each class that has exemplars."""

    def line(number: int, each: Exemplars) -> str:
        images = "".join(
            markup.picture(kind, data, f"{each.name}, rank {rank}") for rank, (kind, data) in enumerate(each.pictures)
        )
        return f"<div><span>{number} {markup.text(each.name)} ({each.kept})</span>{images}</div>"

    lines = [line(number, each) for number, each in enumerate(run.exemplars) if each.kept]
    if not lines:
        return []
    shown, kept = sum(len(each.pictures) for each in run.exemplars), sum(each.kept for each in run.exemplars)
    about = f"The images that the memory keeps, by class, in the order in which they were chosen: {shown} of {kept}."
    return [markup.paragraph(about), '<div class="exemplars">' + "\n".join(lines) + "</div>"]


def _environment(results: Results) -> dict[str, Any]:
    """Returns what the results depend on besides the configuration."""
    facts = {"seed": results.get("seed"), **(results.get("environment") or {})}
    facts |= {key: results.get(key) for key in ("data_fingerprint", "data_warnings", "skipped_images")}
    return {key: value for key, value in facts.items() if value not in (None, [], {})}


def _table_of(tree: Mapping[str, Any], key: str, value: str) -> list[str]:
    """Returns a table of a tree's leaves, by dotted key; [] for an empty tree. key, value: the titles."""
    rows = [[name, str(leaf)] for name, leaf in markup.flat(tree).items()]
    return [markup.table((key, value), rows, words=(key, value))] if rows else []


def _next(run: Material) -> str:
    """Returns commands that go on from this run."""
    directory, method = shlex.quote(run.directory), run.results.get("method")
    config = shlex.quote(f"{run.directory}/config.toml")
    seed = (run.results.get("seed") or 0) + 1
    other = next(name for name in _METHODS if name != method)
    options = ((run.results.get("config") or {}).get("method") or {}).get("options")
    without = f" --set {shlex.quote('method.options={}')}" if options else ""  # which belong to this run's method
    return markup.commands({
        f"python train.py --config {config} --set run.seed={seed} --out {directory}-seed{seed}":
            "the same with another seed: a single run says little about a method",
        f"python train.py --config {config} --set method.name={other}{without} --out {directory}-{other}":
            f"the same with {other}, to see what {method} gains",
        f"python -m cil_func report {directory} {directory}-{other} --out {directory}-and-{other}":
            "both in one report, with mean and deviation where a method has several runs",
        f"python -m cil_func report {directory}": "draws this page again",
        **({f"python -m cil_func predict {directory} IMAGE_OR_FOLDER": "names what is in images"}
           if run.state == "finished" else {f"python train.py --config {config} --out {directory}": "goes on"}),
    })  # fmt: skip
