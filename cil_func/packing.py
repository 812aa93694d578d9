"""A tree of tensors and a record as bytes, and back; pure, and nothing here unpickles.

    data       the tensors, in safetensors
    manifest   one line of JSON: {"format", "number", "record", "sha256", "size", "self"}

"sha256" and "size" are the data's. "self" is the SHA-256 of the manifest's bytes before it, and the bytes from there on
follow from it: a change of any byte shows, in white space and in the last newline too.
"""

import hashlib
import json
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch

from cil_func import tree as trees
from cil_func.errors import CheckpointError

FORMAT = 1


class Loaded(NamedTuple):
    """A checkpoint: tree: nested dicts of tensors, on the CPU; record: what JSON holds; number: the newest has the
    highest."""

    tree: trees.Tree
    record: dict[str, Any]
    number: int


def pack(tree: trees.Tree, record: dict[str, Any], *, number: int) -> tuple[bytes, bytes]:
    """(manifest, data) of a checkpoint; the same arguments give the same bytes. number >= 0.

    Raises what `tree_to_bytes` raises, and ValueError for a record that would not come back from JSON as it is: numbers
    that are not finite, keys that are no strings, tuples, arrays.
    """
    data = tree_to_bytes(tree)
    fields = {"format": FORMAT, "number": number, "record": record, "sha256": sha256(data), "size": len(data)}
    try:
        text = json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"pack: the record has no form in JSON: {error}") from error
    if not _same(json.loads(text)["record"], record):
        raise ValueError("pack: JSON changes the record; dicts with keys of text, lists, text, numbers and None fit")
    body = text.encode("ascii")[:-1]  # without the brace that ends it
    return body + _end(body), data


def unpack(manifest: bytes, data: bytes) -> Loaded:
    """The inverse of `pack`, bit for bit; raises CheckpointError that says which of the two is damaged."""
    fields = verify(manifest, data)
    try:
        return Loaded(tree_from_bytes(data), fields["record"], fields["number"])
    except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"its data are whole, and are no checkpoint's ({error})") from error


def verify(manifest: bytes, data: bytes) -> dict[str, Any]:
    """The manifest's fields, once they and the data are known to be what was written; raises as `unpack` does."""
    fields = parse(manifest)
    if len(data) != fields["size"]:
        raise CheckpointError(f"its data are {len(data)} bytes, and {fields['size']} were written")
    if sha256(data) != fields["sha256"]:
        raise CheckpointError("its data are damaged: their SHA-256 is not the manifest's")
    return fields


def parse(manifest: bytes) -> dict[str, Any]:
    """The fields of a manifest that is what was written; raises CheckpointError for any other bytes."""
    size = len(_end(b""))
    body, end = manifest[:-size], manifest[-size:]
    if end != _end(body):
        raise CheckpointError("its manifest is damaged: its SHA-256 is not the one that it names")
    fields = json.loads(body + b"}")
    if fields.get("format") != FORMAT:
        found = fields.get("format")
        raise CheckpointError(f"its format is {found}, and this version reads {FORMAT}; use the version that wrote it")
    return fields


def tree_to_bytes(tree: trees.Tree) -> bytes:
    """Nested dicts of tensors, on any devices, as safetensors, their order and empty dicts included.

    A tensor is named by its path (`params.classifier.weight`). Views and tensors in several places are written as what
    they show; strides are not kept. Raises TypeError for a leaf that is no tensor, ValueError for a key with a dot.
    """
    leaves = trees.to_paths(tree)
    for path, leaf in leaves.items():
        if not isinstance(leaf, torch.Tensor):
            raise TypeError(f"tree_to_bytes: {path} is of type {type(leaf).__name__}; only tensors fit")
    # Copied, for safetensors refuses tensors that share memory.
    tensors = {path: leaf.detach().to("cpu", copy=True).contiguous() for path, leaf in leaves.items()}
    return safetensors.torch.save(tensors, {"paths": json.dumps(_paths(tree))})


def tree_from_bytes(data: bytes) -> trees.Tree:
    """The inverse of `tree_to_bytes`: the same bits, on the CPU. Raises ValueError, KeyError or SafetensorError for
    other bytes; it doesn't notice changed numbers."""
    tensors = safetensors.torch.load(data)
    # Of the header torch's loader gives the tensors alone. It sorts them, and another order is another compiled graph.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    paths = json.loads(header["__metadata__"]["paths"])
    # Cloned into memory that torch allots: at another alignment some kernels round differently.
    return trees.from_paths({path: tensors[path].clone() if path in tensors else {} for path in paths})


def sha256(data: bytes) -> str:
    """The SHA-256 of bytes, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _end(body: bytes) -> bytes:
    """What ends a manifest whose bytes before it are `body`."""
    return f', "self": "{sha256(body)}"}}\n'.encode("ascii")


def _paths(tree: trees.Tree, prefix: str = "") -> list[str]:
    """The paths of leaves and of empty dicts, in order."""
    found = []
    for key, value in tree.items():
        inner = isinstance(value, dict) and value
        found += _paths(value, f"{prefix}{key}.") if inner else [f"{prefix}{key}"]
    return found


def _same(first: Any, second: Any) -> bool:
    """Whether two JSON values are equal in type too: 1, 1.0 and True are three."""
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(value, second[key]) for key, value in first.items())
    if isinstance(first, list):
        return len(first) == len(second) and all(map(_same, first, second))
    return first == second
