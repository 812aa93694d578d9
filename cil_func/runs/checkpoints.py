"""Saves and loads checkpoints, from which a run goes on, and the finished model.

    checkpoints/00000012-1f3a….safetensors    a part of the state, named by the start of its SHA-256
    checkpoints/00000012.json                 the manifest of checkpoint 12, written last

A checkpoint exists as soon as its manifest does. The manifest names the parts. An unchanged part may come from
an earlier checkpoint. `packing` has the formats, `checkpoint_writer` the rules of what is written and deleted.
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
from cil_func.runs.checkpoint_writer import CheckpointWriter
from cil_func.runs.packing import Loaded

MODEL_FORMAT = 4
_FOLDERS = ("", "checkpoints", "report")  # the folders of a run directory in which files are written


def save(directory: Path, tree: tree.Tree, record: dict[str, Any], *, number: int) -> list[str]:
    """Writes one checkpoint, then deletes all but it and the newest valid one before it.

    directory: the run's checkpoints/, made if it is missing. tree: nested dicts of tensors on any devices.
    record: JSON-able values; `newest` gives them back unchanged, floats exactly.
    number: 0 or more; the highest number is the newest checkpoint, and a number that exists already is replaced.
    Returns warnings about old files that can't be deleted, one line each.
    Raises DiskError if it can't be written; then the earlier checkpoints are as they were. Raises ValueError for a
    number below 0, and what `CheckpointWriter.write` raises.
    A run uses a `CheckpointWriter` itself, which doesn't write unchanged parts again.
    """
    if number < 0:
        raise ValueError(f"save: number {number}; 0 or more fits")
    writer = CheckpointWriter(directory)
    return writer.write(writer.stage(tree), record, number=number)


def newest(directory: Path) -> tuple[Loaded | None, list[str]]:
    """Loads the newest valid checkpoint of the folder `directory`, a run's checkpoints/.

    Returns (the checkpoint, warnings about newer ones that are damaged, one line each). The checkpoint is None if there
    is none, or if only the very first save was interrupted.
    Raises CheckpointError if there are checkpoints and none is valid. Raises DiskError if the folder can't be read.
    """
    with files.disk_errors(directory):
        names = checkpoint_files.list_names(directory)
    problems: list[str] = []
    for number in sorted(_numbers(names), reverse=True):
        try:
            return unpack(read_pieces(directory, number)), problems
        except CheckpointError as error:
            problems.append(f"checkpoint {number} is skipped: {error}")
    if any(checkpoint_files.manifest_name(number) in found for number, found in names.items()):
        raise CheckpointError(
            f"{directory}: no checkpoint can be used ({'; '.join(problems)}); "
            "put the files back from a copy, or start anew in another directory"
        )
    return None, problems


def read_pieces(directory: Path, number: int) -> Iterator[bytes]:
    """Yields the bytes of the manifest of checkpoint `number`, then the bytes of each of its parts, in order.

    directory: a run's checkpoints/. The pieces can be sent to other processes as they are; `unpack` makes a checkpoint
    of them.
    Raises CheckpointError for a file that is missing and for a damaged manifest. Damaged parts are noticed by `unpack`
    only.
    """
    manifest, fields = checkpoint_files.read_manifest(directory, number)
    yield manifest
    for part in packing.parts_of(fields):
        yield checkpoint_files.read_bytes(directory / checkpoint_files.part_name(part))


def unpack(pieces: Iterable[bytes]) -> Loaded:
    """Returns the checkpoint in the pieces that `read_pieces` yields. Raises CheckpointError for damaged bytes."""
    pieces = iter(pieces)
    return packing.unpack_checkpoint(next(pieces), pieces)


def clean(directory: Path) -> None:
    """Deletes the temporary files that killed processes left in a run directory.

    Call it only while this process has the directory's lock.
    """
    files.remove_temporary_files(*(directory / folder for folder in _FOLDERS))


class SavedModel(NamedTuple):
    """A finished model and all that a prediction needs, with its tensors on the CPU.

    params, state: nested dicts of tensors, as `model.apply` takes them: the weights, and batch norm's statistics.
    means: the class means (K, D) if the method predicts by the nearest mean; None if it predicts by logits.
    description: the content of model.json: class names, preprocessing and more, see `saved_model`.
    extra: what the method remembers besides, for a later phase (`methods.extra`); {}: nothing.
    """

    params: tree.Tree
    state: tree.Tree
    means: torch.Tensor | None
    description: dict[str, Any]
    extra: tree.Tree = {}  # noqa: RUF012 (trees are never changed)


def save_model(directory: Path, saved: SavedModel) -> None:
    """Writes model.safetensors and model.json into the run directory `directory`, each atomically. Raises DiskError.

    saved: its tensors may be on any device; its description must be JSON-able.
    Tensors are named by their paths: `params.backbone.resnet32.stem.conv.weight`, `state.backbone...`, `means`.
    """
    means = {} if saved.means is None else {"means": saved.means}
    extra = {"extra": saved.extra} if saved.extra else {}
    model = tree.cast({"params": saved.params, "state": saved.state, **means, **extra}, device="cpu")
    files.write_chunks(directory / "model.safetensors", packing.chunks(model))
    header = {"format": MODEL_FORMAT, "sha256": packing.describe_part(model, number=0).sha256}
    files.write_json(directory / "model.json", header | saved.description)


def load_model(directory: Path) -> SavedModel:
    """Reads the model that `save_model` has written into the run directory `directory`, with its tensors on the CPU.

    Raises CheckpointError if a file is missing or damaged, or if the two files belong to different models.
    """
    try:
        description = json.loads(checkpoint_files.read_bytes(directory / "model.json"))
        data = checkpoint_files.read_bytes(directory / "model.safetensors")
        if description["format"] != MODEL_FORMAT:
            raise CheckpointError(f"its format is {description['format']}, and this version reads {MODEL_FORMAT}")
        if packing.sha256(data) != description["sha256"]:
            raise CheckpointError("model.safetensors is damaged, or of another model: model.json has another SHA-256")
        trees = packing.tree_from_bytes(data)
        return SavedModel(trees["params"], trees["state"], trees.get("means"), description, trees.get("extra", {}))
    except CheckpointError as error:
        raise CheckpointError(f"{directory}: {error}; train it again, or put its files back from a copy") from error
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{directory}: model.json is damaged ({error}); put it back from a copy") from error


def _numbers(names: dict[int, list[str]]) -> list[int]:
    """Returns the numbers of all checkpoints with a manifest, and of saves after them that were interrupted.

    names: from `checkpoint_files.list_names`.
    """
    made = [number for number, found in names.items() if checkpoint_files.manifest_name(number) in found]
    return made + [number for number in names if number > max(made, default=-1)]
