"""Writes what a finished run leaves: its exemplars, results, model and report."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from cil_func import memory
from cil_func.errors import DiskError, StoppedError, printable
from cil_func.runs import checkpoints, memory_files, report_files, setup
from cil_func.runs.recording import Recorder
from cil_func.training.progress import Progress


def write(
    directory: Path,
    ready: setup.Setup,
    done: Progress,
    saved: checkpoints.SavedModel,
    results: dict,
    record: Recorder,
) -> None:
    """Writes what a finished run leaves: the exemplars, results.json, the model and the "run_end" event.

    directory: the run directory. ready: the run. done: where it has ended. saved: its model. results: what it has
    measured.
    """
    record.save(results | _keep_exemplars(directory, ready, done))
    checkpoints.save_model(directory, saved)
    keys = ("average_incremental_accuracy", "last_accuracy", "forgetting")
    seconds = sum(sum(row["seconds"].values()) for row in results["phases"])
    kept = results.get("validation")  # on images of data.validation, beside the test images
    validation = {"validation": {key: kept[key] for key in keys}} if kept else {}
    end = {key: results[key] for key in keys} | validation | {"tests_on": ready.config.data.tests_on}
    record.emit({"event": "run_end", "seconds": seconds, **end})


def _keep_exemplars(directory: Path, ready: setup.Setup, done: Progress) -> dict:
    """Writes the exemplars of a finished run as image files, if it keeps some. Returns {"memory": their size}, or {}.

    Exemplars of an extended run that were kept for tests come behind the others of their class, and stay before these.
    """
    made = ready.experiment
    if not made.method.uses_memory:
        return {}
    quota = memory.quota(made.num_classes, size=made.budget.size, fixed_per_class=made.budget.fixed_per_class)
    kept = memory.trim(done.exemplars, quota)
    for label, held in ready.held_out.items():  # for tests of the next extension, too
        trained = kept[label][: max(1, quota - len(held))]
        kept[label] = torch.cat([trained, held])[:quota]
    if not ready.config.memory.keep:
        memory_files.remove(directory)
        return {"memory": memory_files.size_of([len(kept[label]) for label in sorted(kept)], made.train_images.shape)}
    names = [made.class_names[index] for index in made.scenario.class_order]
    return {"memory": memory_files.save(directory, kept, made.train_images, names, ready.train_files)}


def draw_report(directory: Path, emit: Callable[[dict], None]) -> None:
    """Draws report/. The run is finished by then, so whatever fails here becomes a warning event.

    emit: called with each warning event.
    """
    problems: list[str] = []
    try:
        report_files.write_report(directory, warn=problems.append)
    except (Exception, StoppedError) as error:
        problems.append(f"report/ is not drawn ({type(error).__name__}: {error})")
    again = f"the run is finished, and this draws it: python -m cil_func report {directory}"
    for problem in problems:
        with suppress(DiskError):  # a full disk may be the reason, and the log is on it too
            emit({"event": "warning", "message": printable(f"{problem}; {again}")})
