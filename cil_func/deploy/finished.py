"""Refuses what is no finished run, or of a version that this one doesn't read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cil_func import config as configuration
from cil_func.errors import CheckpointError, ConfigError
from cil_func.runs import files, own_code, status

_TEXTS = ("method", "predict", "backbone", "precision")  # keys of model.json


def refuse_unfinished(directory: Path) -> None:
    """Raises ConfigError if a folder is no run directory, CheckpointError if it is one without a finished model."""
    try:
        if not directory.is_dir():
            what = "it is a file" if directory.exists() else "there is no such directory"
            raise ConfigError(f"{directory}: {what}; give the directory of a finished run")
        if (directory / "model.json").exists():
            return
        run = any((directory / name).exists() for name in ("config.toml", "status.json", "checkpoints"))
    except OSError as error:  # no right to enter it, or a name that is too long
        raise ConfigError(
            f"{directory}: it can't be entered ({error.strerror}); give the directory of a finished run"
        ) from error
    if not run:
        raise ConfigError(f"{directory} is no run directory: it holds no model.json; give that of a finished run")
    what = status.describe(status.read(directory))
    told = f" ({what})" if what else ""
    raise CheckpointError(f"{directory}: the run is not finished{told}; the command that began it goes on with it")


def check(directory: Path, description: Mapping[str, Any]) -> None:
    """Raises CheckpointError if a model.json lacks something, or says something that this version doesn't know.

    description: its content. What the preprocessing lacks is noticed by what uses it.
    """
    try:
        names, told = [each["name"] for each in description["classes"]], {key: description[key] for key in _TEXTS}
        wrong = [repr(value) for value in [*names, *told.values()] if not isinstance(value, str)]
        if wrong or len(names) != sum(description["phases"]):
            raise ValueError(f"{wrong[0]} is no text" if wrong else f"its phases don't bring {len(names)} classes")
        configuration.from_dict(description["config"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{directory}: model.json is damaged ({error}); put it back from a copy") from error
    except ConfigError as error:
        raise CheckpointError(
            f"{directory}: model.json holds what this version doesn't know ({error}); use the version that wrote it"
        ) from error


def changed_code(directory: Path) -> list[str]:
    """Returns a line for each file of the user's own that the run names and that has changed since it was trained."""
    known = files.read_object(directory / "results.json").get("own_code") or {}
    return [f"{place} has changed since {directory} was trained by it" for place in own_code.changed(known)]
