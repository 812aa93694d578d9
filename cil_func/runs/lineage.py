"""Where a model comes from: the runs that trained its phases, their data, and the exemplars that they left."""

import hashlib
from typing import Any

import torch

from cil_func.runs.setup import Setup
from cil_func.training.progress import Progress


def of_run(setup: Setup, progress: Progress) -> dict[str, Any]:
    """Returns the "lineage" of a finished run's model.json.

    parent: the run that it extends and the SHA-256 of that model; None: it began from nothing. phases: for each phase
    its classes, the run that trained it ("" for this one), the fingerprint of that run's data, how many exemplars of
    these classes there are now, and a SHA-256 of their pixels in order of class and rank. deleted: the exemplars that
    a person had deleted from the parent's memory before. parent_edits: all edits that the parent has gone through, and
    the runs that it extends, oldest first; the command edit has written them. parent_deleted: the same of exemplars
    that were deleted from the memories of the runs that the parent extends, each {"run", "file"}.
    """
    made, extended = setup.experiment, setup.extended
    before = _phases_of_parent(setup)
    phases = []
    for phase in made.scenario.phases:
        first = sum(made.sizes(phase)[:-1])
        labels = range(first, first + len(phase.classes))
        kept = [progress.exemplars.get(label, torch.empty(0, dtype=torch.int64)) for label in labels]
        pixels = hashlib.sha256()
        for rows in kept:  # a class at a time, since all may be too many for the memory
            pixels.update(made.train_images.gather(rows).cpu().numpy().tobytes())
        known = before[phase.index] if phase.index < len(before) else {"run": "", "data_fingerprint": setup.fingerprint}
        phases.append({
            "phase": phase.index,
            "classes": [made.class_names[index] for index in phase.classes],
            **known,
            "exemplars": sum(map(len, kept)),
            "exemplars_sha256": pixels.hexdigest(),
        })
    parent = {"run": str(extended.directory), "sha256": extended.saved.description["sha256"]} if extended else None
    return {
        "parent": parent,
        "phases": phases,
        "deleted": list(extended.memory.deleted) if extended and extended.memory else [],
        "parent_edits": _edits_of_parent(setup),
        "parent_deleted": _deleted_before(setup),
    }


def _deleted_before(setup: Setup) -> list[dict[str, str]]:
    """Returns the exemplars that were deleted from the memories of the runs before the parent, oldest first."""
    told = _told(setup)
    run = (told.get("parent") or {}).get("run", "")
    return [*told.get("parent_deleted", []), *({"run": run, "file": file} for file in told.get("deleted", []))]


def _told(setup: Setup) -> dict[str, Any]:
    """Returns the lineage of the model that a run begins with; {} if it begins from nothing."""
    return (setup.extended.saved.description.get("lineage") or {}) if setup.extended else {}


def _edits_of_parent(setup: Setup) -> list[dict[str, Any]]:
    """Returns the edits between the first run of a line of extensions and the model that a run begins with."""
    told = _told(setup)
    return [*told.get("parent_edits", []), *told.get("edits", [])]


def _phases_of_parent(setup: Setup) -> list[dict[str, str]]:
    """Returns for each phase of the extended run who trained it and on which data; [] for a run that extends none."""
    extended = setup.extended
    if extended is None:
        return []
    here, fingerprint = str(extended.directory), extended.results.get("data_fingerprint", "")
    told = extended.saved.description.get("lineage", {}).get("phases", [])
    own = {"run": here, "data_fingerprint": fingerprint}
    known = [{"run": each["run"] or here, "data_fingerprint": each["data_fingerprint"]} for each in told]
    return known or [own for _ in extended.sizes]
