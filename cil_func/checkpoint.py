"""What is kept on disk: checkpoints, which a run goes on from, and the finished model.

    checkpoints/00000012-1f3a….safetensors    data of checkpoint 12, named by the start of their SHA-256
    checkpoints/00000012.json                 its manifest (`packing`), written last: it makes the checkpoint

Data are never written over other data, so that a process may die, or the power fail, at any moment: the earlier
checkpoint is whole, and the new one is whole, or damaged and known to be.
"""

import contextlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch

from cil_func import events, packing, tree
from cil_func.errors import CheckpointError
from cil_func.packing import Loaded

MODEL_FORMAT = 3
_NAME = re.compile(r"(\d{8,})(\.json|-[0-9a-f]{16}\.safetensors)")
_FOLDERS = ("", "checkpoints", "report")  # of a run directory, that something is written to


def save(directory: Path, tree: tree.Tree, record: dict[str, Any], *, number: int) -> list[str]:
    """Writes checkpoint `number` >= 0 and deletes what is older than the two newest valid ones.

    directory: the run's checkpoints/, made if missing; tree: nested dicts of tensors on any devices; record: as JSON
    gives it back, floats exactly. Numbers increase: the highest is the newest. A number that is there is replaced.
    Returns what couldn't be deleted, a line each, for that stops nothing.
    Raises DiskError where it can't be written, and the earlier ones are as they were then; ValueError and TypeError as
    `packing.pack` does.
    """
    if number < 0:
        raise ValueError(f"save: number {number}; 0 or more fits")
    manifest, data = packing.pack(tree, record, number=number)
    name = _data_name(number, packing.parse(manifest)["sha256"])
    events.make_directory(directory)
    try:
        events.write_bytes(directory / name, data)
        events.write_bytes(directory / _manifest_name(number), manifest)
    except BaseException:
        if not _needs(directory, number, name):  # the disk may be full
            with contextlib.suppress(OSError):
                (directory / name).unlink(missing_ok=True)
        raise
    return _delete_old(directory, number, name)


def newest(directory: Path) -> tuple[Loaded | None, list[str]]:
    """(the newest valid checkpoint, what is wrong with newer ones, a line each).

    None where there is none, or only what the first save left when it was interrupted.
    Raises CheckpointError where none of several is valid, DiskError where the folder can't be read.
    """
    found, _, problems = _newest(directory)
    return found, problems


def newest_bytes(directory: Path) -> tuple[bytes, list[str]]:
    """As `newest`, the checkpoint as bytes that `unpack` takes, to be sent to other processes; b"" for None."""
    _, data, problems = _newest(directory)
    return data, problems


def unpack(data: bytes) -> Loaded:
    """The checkpoint in `newest_bytes`; raises CheckpointError for other bytes."""
    manifest, newline, data = data.partition(b"\n")
    return packing.unpack(manifest + newline, data)


def clean(directory: Path) -> None:
    """Removes what killed processes left unfinished in a run directory; call it under the lock."""
    events.clean(*(directory / folder for folder in _FOLDERS))


class SavedModel(NamedTuple):
    """A finished model and all that a prediction needs, its tensors on the CPU: see `predicting.scores`.

    description: what model.json holds; means: the class means (K, D), None where the method predicts by logits.
    """

    params: tree.Tree
    state: tree.Tree
    means: torch.Tensor | None
    description: dict[str, Any]


def save_model(directory: Path, saved: SavedModel) -> None:
    """Writes model.safetensors and model.json, each atomically.

    Tensor names are paths: `params.backbone.resnet32.stem.conv.weight`, `state.backbone...`, `means`. The
    description has to have a form in JSON. Raises DiskError.
    """
    means = {} if saved.means is None else {"means": saved.means}
    data = packing.tree_to_bytes({"params": saved.params, "state": saved.state, **means})
    events.write_bytes(directory / "model.safetensors", data)
    header = {"format": MODEL_FORMAT, "sha256": packing.sha256(data)}
    events.write_json(directory / "model.json", header | saved.description)


def load_model(directory: Path) -> SavedModel:
    """Reads what `save_model` wrote. `model.apply` takes its params and state.

    Raises CheckpointError for files that are missing, damaged or not of one model.
    """
    try:
        description = json.loads(_read(directory / "model.json"))
        data = _read(directory / "model.safetensors")
        if description["format"] != MODEL_FORMAT:
            raise CheckpointError(f"its format is {description['format']}, and this version reads {MODEL_FORMAT}")
        if packing.sha256(data) != description["sha256"]:
            raise CheckpointError("model.safetensors is damaged, or of another model: model.json has another SHA-256")
        trees = packing.tree_from_bytes(data)
        return SavedModel(trees["params"], trees["state"], trees.get("means"), description)
    except CheckpointError as error:
        raise CheckpointError(f"{directory}: {error}; train it again, or put its files back from a copy") from error
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{directory}: model.json is damaged ({error}); put it back from a copy") from error


def _newest(directory: Path) -> tuple[Loaded | None, bytes, list[str]]:
    with events.disk_errors(directory):
        files = _files(directory)
    problems = []
    for number in sorted(files, reverse=True):
        try:
            manifest, data = _read_checked(directory, number)
            return packing.unpack(manifest, data), manifest + data, problems
        except CheckpointError as error:
            problems.append(f"checkpoint {number} is skipped: {error}")
    if any(_manifest_name(number) in names for number, names in files.items()):
        raise CheckpointError(
            f"{directory}: no checkpoint can be used ({'; '.join(problems)}); "
            "put the files back from a copy, or start anew in another directory"
        )
    return None, b"", problems


def _read_checked(directory: Path, number: int) -> tuple[bytes, bytes]:
    """(manifest, data) of a checkpoint, as they were written; raises CheckpointError."""
    missing = "is missing, as when the process ended while it saved"
    manifest = _read(directory / _manifest_name(number), missing=missing)
    fields = packing.parse(manifest)
    if fields["number"] != number:
        raise CheckpointError(f"its manifest is that of checkpoint {fields['number']}")
    data = _read(directory / _data_name(number, fields["sha256"]))
    packing.verify(manifest, data)
    return manifest, data


def _needs(directory: Path, number: int, data_name: str) -> bool:
    """Whether the manifest on disk is of these data."""
    try:
        fields = packing.parse(_read(directory / _manifest_name(number)))
    except CheckpointError:
        return False
    return _data_name(number, fields["sha256"]) == data_name


def _delete_old(directory: Path, number: int, data_name: str) -> list[str]:
    """Deletes what the checkpoint `number`, which is written, and the newest valid one before it make superfluous."""
    try:
        files = _files(directory)
    except OSError as error:
        return [f"{directory}: can't be searched for old checkpoints ({error.strerror})"]
    before = sorted((other for other in files if other < number), reverse=True)
    earlier = next((other for other in before if _valid(directory, other)), 0)
    old = {other: names for other, names in files.items() if other < earlier}
    old[number] = [name for name in files.get(number, ()) if name not in (data_name, _manifest_name(number))]
    problems = []
    for other, names in sorted(old.items()):
        name = ""
        try:
            for name in sorted(names, key=lambda name: name != _manifest_name(other)):  # data without it are no danger
                (directory / name).unlink(missing_ok=True)
        except OSError as error:
            problems.append(f"{directory / name} is old and can't be deleted ({error.strerror})")
    return problems


def _valid(directory: Path, number: int) -> bool:
    try:
        _read_checked(directory, number)
    except CheckpointError:
        return False
    return True


def _files(directory: Path) -> dict[int, list[str]]:
    """The names of the files in the folder by the checkpoint's number; raises OSError."""
    found: dict[int, list[str]] = {}
    with contextlib.suppress(FileNotFoundError):  # no folder: nothing was saved yet
        for path in directory.iterdir():
            if match := _NAME.fullmatch(path.name):
                found.setdefault(int(match[1]), []).append(path.name)
    return found


def _read(path: Path, *, missing: str = "is missing") -> bytes:
    """A file's bytes; raises CheckpointError."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.name} {missing}") from error
    except OSError as error:
        raise CheckpointError(f"{path.name} can't be read ({error.strerror})") from error


def _manifest_name(number: int) -> str:
    return f"{number:08d}.json"


def _data_name(number: int, digest: str) -> str:
    return f"{number:08d}-{digest[:16]}.safetensors"
