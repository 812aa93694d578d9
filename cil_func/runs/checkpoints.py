"""What is kept on disk: checkpoints, which a run goes on from, and the finished model.

    checkpoints/00000012-1f3a….safetensors    a part of the state, named by the start of its SHA-256
    checkpoints/00000012.json                 the manifest of checkpoint 12 (`packing`), written last

The manifest makes the checkpoint. It names the parts, also those that earlier checkpoints wrote and that didn't change
since (`saving`).
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import torch

from cil_func import tree
from cil_func.errors import CheckpointError
from cil_func.runs import checkpoint_files, files, packing
from cil_func.runs.checkpoint_writer import Saver
from cil_func.runs.packing import Loaded

MODEL_FORMAT = 4
_FOLDERS = ("", "checkpoints", "report")  # of a run directory, that something is written to


def save(directory: Path, tree: tree.Tree, record: dict[str, Any], *, number: int) -> list[str]:
    """Writes checkpoint `number` >= 0 and deletes what is older than the two newest valid ones.

    directory: the run's checkpoints/, made if missing; tree: nested dicts of tensors on any devices; record: as JSON
    gives it back, floats exactly. Numbers increase: the highest is the newest. A number that is there is replaced.
    Returns what couldn't be deleted, a line each, for that stops nothing. A run keeps a `Saver` and remembers more.
    Raises DiskError where it can't be written, and the earlier ones are as they were then; ValueError and TypeError as
    `packing` does.
    """
    if number < 0:
        raise ValueError(f"save: number {number}; 0 or more fits")
    saver = Saver(directory)
    return saver.write(saver.stage(tree), record, number=number)


def newest(directory: Path) -> tuple[Loaded | None, list[str]]:
    """(the newest valid checkpoint, what is wrong with newer ones, a line each).

    None where there is none, or only what the first save left when it was interrupted.
    Raises CheckpointError where none of several is valid, DiskError where the folder can't be read.
    """
    with files.disk_errors(directory):
        names = checkpoint_files.found(directory)
    problems = []
    for number in sorted(_numbers(names), reverse=True):
        try:
            return unpack(pieces(directory, number)), problems
        except CheckpointError as error:
            problems.append(f"checkpoint {number} is skipped: {error}")
    if any(checkpoint_files.manifest_name(number) in found for number, found in names.items()):
        raise CheckpointError(
            f"{directory}: no checkpoint can be used ({'; '.join(problems)}); "
            "put the files back from a copy, or start anew in another directory"
        )
    return None, problems


def pieces(directory: Path, number: int) -> Iterator[bytes]:
    """A checkpoint as `unpack` takes it, to be sent to other processes: its manifest, then each part's bytes.

    Raises CheckpointError for what is missing; damaged bytes are noticed by `unpack`.
    """
    manifest, fields = checkpoint_files.read_manifest(directory, number)
    yield manifest
    for part in packing.parts_of(fields):
        yield checkpoint_files.read(directory / checkpoint_files.part_name(part))


def unpack(pieces: Iterable[bytes]) -> Loaded:
    """The checkpoint that `pieces` read; raises CheckpointError for other bytes."""
    pieces = iter(pieces)
    return packing.unpack(next(pieces), pieces)


def clean(directory: Path) -> None:
    """Removes what killed processes left unfinished in a run directory; call it under the lock."""
    files.remove_temporary_files(*(directory / folder for folder in _FOLDERS))


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
    model = tree.cast({"params": saved.params, "state": saved.state, **means}, device="cpu")
    files.write_chunks(directory / "model.safetensors", packing.chunks(model))
    header = {"format": MODEL_FORMAT, "sha256": packing.describe(model, number=0).sha256}
    files.write_json(directory / "model.json", header | saved.description)


def load_model(directory: Path) -> SavedModel:
    """Reads what `save_model` wrote. `model.apply` takes its params and state.

    Raises CheckpointError for files that are missing, damaged or not of one model.
    """
    try:
        description = json.loads(checkpoint_files.read(directory / "model.json"))
        data = checkpoint_files.read(directory / "model.safetensors")
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


def _numbers(names: dict[int, list[str]]) -> list[int]:
    """Of the checkpoints: those with a manifest, and what a save left that was interrupted after all of them."""
    made = [number for number, found in names.items() if checkpoint_files.manifest_name(number) in found]
    return made + [number for number in names if number > max(made, default=-1)]
