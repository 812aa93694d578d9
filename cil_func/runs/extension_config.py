"""The configuration of a run that extends a finished one, which `train.py --extend RUN` makes of RUN's."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cil_func import config as configuration
from cil_func.config import Config, effects, names
from cil_func.config.messages import shown
from cil_func.errors import ConfigError

_FIXED = (
    "model.backbone", "model.options", "model.weights", "data.mean", "data.std", "data.exif_orientation",
    "data.background", "run.seed", "run.extends",
)  # fmt: skip
_NEEDED = ("model.json", "model.safetensors", "status.json", "config.toml", "results.json")


def of_run(directory: Path, overrides: Sequence[str]) -> Config:
    """Returns the configuration of a run that goes on from the finished run in `directory` with new classes.

    overrides: those of the command, see `config.load`; data.path has to be among them. Everything else is as it was in
    the finished run, but for these: the device is this machine's. data.* is about the new classes alone, which come
    sorted by name and in one phase unless the overrides say otherwise, and are decoded and normalised as
    those of the finished run; data.options are dropped with the data.name that they belong to.
    Raises ConfigError if the directory holds no finished run, or if an override can't hold for its model.
    """
    told = _described(directory)
    path, before = directory / "config.toml", told["preprocessing"]
    own = configuration.of_run(directory)
    if own.data.phases:
        raise ConfigError(
            f"--extend {shown(str(directory), length=200)}: the run has learned only the first {own.data.phases} "
            "phases of its data (data.phases); extend a run of all of them"
        )
    fixed = [key for key in configuration.set_keys(overrides) if key in _FIXED]
    if fixed:
        raise ConfigError(f"--set {fixed[0]}: stays as it is in {directory}, whose model goes on; leave it out")
    if not any(key in ("data.path", "data.name") for key in configuration.set_keys(overrides)):
        raise ConfigError("--extend: the new classes are missing; name their folder by --set data.path=FOLDER")
    given = [] if own.data.name in effects.OF_FILES else ["data.name=image_folder"]
    given += [] if _keeps_data_name(own.data.name, directory, overrides) else ["data.options={}"]
    given += [
        f"run.extends={_quoted(str(directory.resolve()))}", "data.initial_increment=0", "data.increment=auto",
        "data.class_order=sorted", "data.validation=0", "data.tests_on=test", "data.storage=auto", "data.subset=",
        f"data.mean={before['mean']}", f"data.std={before['std']}", f"run.precision={told['precision']}",
        f"data.exif_orientation={before['exif_orientation']}", f"data.background={before['background'] or []}",
        "run.device=auto",
    ]  # fmt: skip
    config = configuration.load(str(path), [*given, *overrides])
    sides = {*before["image_size"]} if before["resize"] else set()  # images that aren't square are never resized
    if config.data.image_size not in (own.data.image_size, *sides):
        height, width = before["image_size"]
        raise ConfigError(
            f"data.image_size: {config.data.image_size}, and {directory} has learned images of {width}x{height}; "
            "leave it out, or give that side"
        )
    return config


def _keeps_data_name(before: str, directory: Path, overrides: Sequence[str]) -> bool:
    """Returns whether the data set keeps its name, and with it data.options, which are those of that name.

    before: data.name of the finished run in `directory`.
    """
    given = [text.partition("=")[2].strip() for text in overrides if configuration.set_keys([text]) == ["data.name"]]
    if not given:
        return before in effects.OF_FILES
    return names.located(given[-1].strip("\"'"), [os.curdir, directory]) == before


def _quoted(text: str) -> str:
    """Returns a text as a string of TOML, which has JSON's escapes but no halves of characters, and no bare DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _described(directory: Path) -> dict[str, Any]:
    """Returns the content of a finished run's model.json. Raises ConfigError if the directory holds no finished run."""
    where = f"--extend {shown(str(directory), length=200)}"
    if not directory.is_dir():
        raise ConfigError(f"{where}: no such directory; give that of a finished run")
    missing = [name for name in _NEEDED if not (directory / name).exists()]
    if missing and (directory / "model.json").exists():
        raise ConfigError(f"{where}: {missing[0]} is missing, needed to go on; put the whole run directory back")
    try:
        state = json.loads((directory / "status.json").read_text(encoding="utf-8")).get("state")
        told = json.loads((directory / "model.json").read_text(encoding="utf-8"))
        told["preprocessing"]["mean"], told["preprocessing"]["background"], told["precision"]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        raise ConfigError(f"{where}: holds no finished run; finish it by its own command first") from None
    if state != "finished":
        raise ConfigError(f"{where}: the run is {state}; finish it by its own command first")
    return told
