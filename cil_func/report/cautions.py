"""Warns of runs in one table that were not measured on the same images, or in the same phases."""

from collections.abc import Mapping, Sequence
from typing import Any

from cil_func.report import page, tables
from cil_func.report.axes import Results, phase_sizes

Measured = Mapping[str, Any]  # what `measured_on` returns


def measured_on(results: Results) -> dict[str, Any]:
    """Returns, in types of JSON, what a run was measured on: data, phases, which images, and their fingerprints.

    What is missing in results of an older version is None. phases: how many classes each brought; [] without phases.
    validation: the share of images that is kept out, if they are what it was measured on, else None.
    """
    data = (results.get("config") or {}).get("data") or {}
    on_validation = tables.on_validation_images(results)
    return {
        "data": data.get("name"),
        "storage": data.get("storage"),
        "phases": phase_sizes(results) if results.get("phases") else [],
        "on_validation": on_validation,
        "validation": data.get("validation") if on_validation else None,
        "data_fingerprint": results.get("data_fingerprint"),
        "tests_fingerprint": results.get("tests_fingerprint"),
    }


def caution(groups: Sequence[Sequence[Measured]]) -> str:
    """Returns a line that warns of runs that differ in data or phases, or says that all are on validation images.

    groups: what the runs of each group were measured on; runs of one group have to have the same training images too.
    It is "" if all runs are on the same test images.
    """
    found = [each for group in groups for each in group]
    kept = [each for each in found if each["on_validation"]]
    tested = [each for each in found if not each["on_validation"]]
    kinds = {(each["data"], *each["phases"]) for each in found}
    shares = {each["validation"] for each in kept}
    key = "tests_fingerprint" if all(each["tests_fingerprint"] for each in tested) else "data_fingerprint"
    mixed = [_differ(tested, key), _differ(kept, "data_fingerprint")]  # all images decide which are kept out
    mixed += [_differ(group, "data_fingerprint") for group in groups]
    if len(kinds) > 1 or len(shares) > 1 or any(mixed):
        return "Careful: these runs differ in data or phases, so they can't be compared."
    if kept and tested:
        return "Careful: some of these runs are measured on test images and some on validation images (data.tests_on)."
    return page.ON_VALIDATION if kept else ""


def _differ(found: Sequence[Measured], key: str) -> bool:
    """Returns whether the fingerprints of runs differ; those of images in different storages can't be compared."""
    prints = {each[key] for each in found if each[key]}
    return len(prints) > 1 and len({each["storage"] for each in found}) == 1
