"""Turns a tree of tensors and a record into bytes, and back. Nothing here reads files, and nothing unpickles.

    part       one key of the tree with what lies under it, in the format of safetensors
    manifest   one line of JSON: {"format", "number", "record", "parts": [{"number", "sha256", "size"}, ...], "self"}

A part's "number" is that of the checkpoint that wrote it first: a part that doesn't change is written once, and later
manifests name it again. "sha256" and "size" describe the part's bytes. "self" is the SHA-256 of all bytes of the
manifest before it, and the rest of the manifest follows from it. So a change of any byte is noticed.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch

from cil_func import tree as trees
from cil_func.errors import CheckpointError

FORMAT = 2
_DTYPES = {  # the names of safetensors
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class Loaded(NamedTuple):
    """A checkpoint that was read.

    tree: nested dicts of tensors on the CPU. record: JSON-able values. Both are as they were when they were saved.
    number: of the checkpoint; the newest one of a run has the highest.
    """

    tree: trees.Tree
    record: dict[str, Any]
    number: int


class Part(NamedTuple):
    """A part of a checkpoint as a manifest names it: the file with one key of the tree and what lies under it.

    number: of the checkpoint that wrote it first. sha256 (hexadecimal) and size (in bytes): of its bytes.
    """

    number: int
    sha256: str
    size: int


def pack_manifest(parts: Sequence[Part], record: dict[str, Any], *, number: int) -> bytes:
    """Returns the manifest of checkpoint `number` (0 or more). The same arguments give the same bytes.

    parts: those of the checkpoint, in order. record: what is stored beside the tree.
    Raises ValueError for a record that JSON would not give back unchanged: with numbers that are not finite, keys that
    are not strings, tuples or arrays.
    """
    named = [part._asdict() for part in parts]
    try:
        text = json.dumps({"format": FORMAT, "number": number, "record": record, "parts": named}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"pack_manifest: the record has no form in JSON: {error}") from error
    if not _same(json.loads(text)["record"], record):
        fits = "dicts with keys of text, lists, text, numbers and None fit"
        raise ValueError(f"pack_manifest: JSON changes the record; {fits}")
    body = text.encode("ascii")[:-1]  # without the closing brace
    return body + _end(body)


def unpack_checkpoint(manifest: bytes, data: Iterable[bytes]) -> Loaded:
    """Returns the checkpoint that consists of a manifest and its parts.

    data: the bytes of each part, in the manifest's order; read one by one.
    Raises CheckpointError for damaged bytes. Raises ValueError if there are more or fewer parts than the manifest
    names.
    """
    fields = parse_manifest(manifest)
    tree: trees.Tree = {}
    for part, piece in zip(parts_of(fields), data, strict=True):
        verify(part, len(piece), sha256(piece))
        try:
            tree |= tree_from_bytes(piece)
        except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"its data are undamaged, but not those of a checkpoint ({error})") from error
    return Loaded(tree, fields["record"], fields["number"])


def verify(part: Part, size: int, digest: str) -> None:
    """Checks bytes that were read for a part. Raises CheckpointError unless they are those that were written.

    part: as the manifest names it. size, digest: the number of the bytes and their SHA-256 in hexadecimal.
    """
    if size != part.size:
        raise CheckpointError(f"its data are {size} bytes, and {part.size} were written")
    if digest != part.sha256:
        raise CheckpointError("its data are damaged: their SHA-256 is not the manifest's")


def parse_manifest(manifest: bytes) -> dict[str, Any]:
    """Returns the fields of a manifest, all but "self": {"format", "number", "record", "parts"}.

    Raises CheckpointError if its bytes are not those that were written, or if it is of another format.
    """
    size = len(_end(b""))
    body, end = manifest[:-size], manifest[-size:]
    if end != _end(body):
        raise CheckpointError("its manifest is damaged: its SHA-256 is not the one that it names")
    fields = json.loads(body + b"}")
    if fields.get("format") != FORMAT:
        found = fields.get("format")
        raise CheckpointError(f"its format is {found}, and this version reads {FORMAT}; use the version that wrote it")
    return fields


def parts_of(fields: dict[str, Any]) -> list[Part]:
    """Returns the parts that a manifest names, in order. fields: from `parse_manifest`."""
    return [Part(**part) for part in fields["parts"]]


def chunks(tree: trees.Tree) -> Iterator[bytes | memoryview]:
    """Yields the bytes of a safetensors file with all tensors of a tree, piece by piece, without copying the tensors.

    tree: nested dicts of tensors on the CPU. A tensor is named by its path, like `params.classifier.weight`.
    `tree_from_bytes` restores the order of the keys and empty dicts. It doesn't restore strides, nor that two tensors
    shared memory: each is written by its values.
    Raises TypeError for a leaf that is no tensor or has a dtype that not every reader of safetensors knows. Raises
    ValueError for a key with a dot.
    """
    leaves = trees.to_paths(tree)
    for path, leaf in leaves.items():
        found = leaf.dtype if isinstance(leaf, torch.Tensor) else f"type {type(leaf).__name__}"
        if found not in _DTYPES:
            raise TypeError(f"chunks: {path} is of {found}; tensors of {', '.join(_DTYPES.values())} fit")
    # Wide numbers first, as the library does it: then each tensor starts at a multiple of its item size.
    ordered = sorted((path for path, leaf in leaves.items()), key=lambda path: (-leaves[path].itemsize, path))
    header: dict[str, Any] = {"__metadata__": {"paths": json.dumps(paths(tree))}}
    end = 0
    for path in ordered:
        leaf, start = leaves[path], end
        end += leaf.numel() * leaf.itemsize
        header[path] = {"dtype": _DTYPES[leaf.dtype], "shape": list(leaf.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for path in ordered:
        yield leaves[path].detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def describe_part(tree: trees.Tree, *, number: int) -> Part:
    """Returns the number, SHA-256 and size of the part that checkpoint `number` would write for a tree.

    tree: as for `chunks`, which makes the bytes. Writes nothing. Raises what `chunks` raises.
    """
    found, size = hashlib.sha256(), 0
    for chunk in chunks(tree):
        found.update(chunk)
        size += len(chunk)
    return Part(number, found.hexdigest(), size)


def tree_from_bytes(data: bytes) -> trees.Tree:
    """Returns the tree that `chunks` has turned into these bytes, bit by bit, on the CPU.

    Raises ValueError, KeyError or SafetensorError for bytes of another format. Changed numbers are not noticed:
    `verify` does that.
    """
    tensors = safetensors.torch.load(data)
    # torch's loader returns the tensors alone and sorted. The tree needs its own order: another one would be compiled
    # into another graph.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    order = json.loads(header["__metadata__"]["paths"])
    # Cloned into memory that torch allocates: some kernels round differently at another alignment.
    return trees.from_paths({path: tensors.pop(path).clone() if path in tensors else {} for path in order})


def sha256(data: bytes) -> str:
    """Returns the SHA-256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _end(body: bytes) -> bytes:
    """Returns the last bytes of a manifest, with "self": the SHA-256 of `body`, all bytes before them."""
    return f', "self": "{sha256(body)}"}}\n'.encode("ascii")


def paths(tree: trees.Tree, prefix: str = "") -> list[str]:
    """Returns the dotted paths of all leaves and empty dicts of a tree, in order, each with `prefix` before it."""
    found = []
    for key, value in tree.items():
        inner = isinstance(value, dict) and value
        found += paths(value, f"{prefix}{key}.") if inner else [f"{prefix}{key}"]
    return found


def _same(first: Any, second: Any) -> bool:
    """Returns whether two JSON values are equal and of the same types: 1, 1.0 and True differ."""
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(value, second[key]) for key, value in first.items())
    if isinstance(first, list):
        return len(first) == len(second) and all(map(_same, first, second))
    return first == second
