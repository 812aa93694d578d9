"""Checks that a run's images are still those that it began with."""

from pathlib import Path

from cil_func.config import Config, names
from cil_func.data import sources
from cil_func.errors import CilError, ConfigError, DataError
from cil_func.runs import load_data
from cil_func.runs.old_tests import HeldOut


def refuse_changed_images(fingerprint: str, began_with: str, *, moved_from: str) -> None:
    """Raises DataError if a run would go on with other images, whose rows are not those that its checkpoint names.

    fingerprint: of the images now. began_with: the fingerprint of those that the run began with, from the checkpoint.
    moved_from: the data.path that the run began with if it differs now, else "".
    """
    if fingerprint != began_with:
        fault = "the images are not those that the run began with"
        where = f", whose data.path is {moved_from}" if moved_from else ""
        raise DataError(f"{fault}{where}; put them back, or start anew with another --out")


def warning_if_changed(
    config: Config, directory: Path, results: dict, *, moved_from: str, where: str = "--out"
) -> str:
    """Returns a warning of one line if the images of a finished run have changed since or can't be read, else "".

    config: what the command asks for. directory: the run directory. results: the content of the run's results.json, in
    which older versions wrote nothing about the images: then "" is returned unless data.path differs.
    moved_from: the run's data.path if that of `config` is another one, else "". where: what the command calls the
    argument that names the directory, for messages.
    The images are read only if a file's name, size or time differs; those of a user's own function always, since only
    they show whether it returns the same. Raises ConfigError if data.path differs and the images there are not the
    run's, or it isn't known which the run had. Raises what `load_data.load` raises if data.path differs and its images
    can't be read.
    """
    known, path = results.get("data_fingerprint"), config.data.path
    if moved_from and not known:
        raise ConfigError(_other_path(directory, moved_from, path, where))
    if not known:
        return ""
    try:
        if not names.is_own(config.data.name) and _stamp(config) == results.get("data_stamp"):
            return ""
        same = load_data.fingerprint_of(config, HeldOut.of_record(results)) == known
    except CilError as error:
        if moved_from:
            raise
        return f"the images of this run can't be read any more: {error}"
    if not same and moved_from:
        raise ConfigError(_other_path(directory, moved_from, path, where))
    if same:
        return ""
    images = f"the images in {path}" if path else f"the images of {config.data.name}"
    return f"{images} have changed since this run; another {where} trains on them as they are"


def _stamp(config: Config) -> str:
    return sources.stamp(config.data.name, config.data.path, subset=config.data.subset)


def _other_path(directory: Path, there: str, here: str, where: str) -> str:
    return (
        f"{directory} holds a run of other images: data.path is {there} there and {here} here; give the same, or "
        f"another {where}"
    )
