"""Recognises the run that another one extends in a folder to which it was moved, by its model."""

from pathlib import Path

from cil_func.config import Config
from cil_func.errors import CheckpointError
from cil_func.runs import checkpoint_files, files
from cil_func.runs.parent import Parent

KEY = "parent_sha256"  # in the record of a checkpoint


def record(extended: Parent | None) -> dict[str, str]:
    """Returns what a checkpoint's record says about the run that its run extends: the SHA-256 of that model."""
    return {KEY: extended.saved.description["sha256"]} if extended else {}


def is_same(directory: Path, config: Config) -> bool:
    """Returns whether the run in a directory extends the run that config.run.extends names, wherever that was then.

    It is so if the two have the same model. False if it isn't known, as for checkpoints of older versions.
    """
    here = files.read_object(Path(config.run.extends) / "model.json").get("sha256") if config.run.extends else None
    return here is not None and here == _began_with(directory)


def _began_with(directory: Path) -> str | None:
    """Returns the SHA-256 of the model that the run in a directory extends; None if it isn't known."""
    lineage = files.read_object(directory / "model.json").get("lineage")
    if lineage:
        return (lineage.get("parent") or {}).get("sha256")
    folder = directory / "checkpoints"
    for number in sorted(checkpoint_files.list_names(folder), reverse=True):
        try:
            return checkpoint_files.read_manifest(folder, number)[1]["record"].get(KEY)
        except CheckpointError:  # of a save that was interrupted, or damaged
            continue
    return None
