"""A tree of tensors and a record as bytes, and back; pure, and nothing here unpickles.

    part       what lies under one key of the tree, with that key, in safetensors
    manifest   one line of JSON: {"format", "number", "record", "parts": [{"number", "sha256", "size"}, ...], "self"}

A part's "number" is that of the checkpoint that wrote it first: what doesn't change is written once, and later
checkpoints name it again. "sha256" and "size" are those of its bytes. "self" is the SHA-256 of the manifest's bytes
before it, and the bytes from there on follow from it: a change of any byte shows, in white space and in the last
newline too.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
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
    """A checkpoint: tree: nested dicts of tensors, on the CPU; record: what JSON holds; number: the newest has the
    highest."""

    tree: trees.Tree
    record: dict[str, Any]
    number: int


class Part(NamedTuple):
    """A part as a manifest names it; number: of the checkpoint that wrote it first."""

    number: int
    sha256: str
    size: int


def pack(parts: Sequence[Part], record: dict[str, Any], *, number: int) -> bytes:
    """The manifest of a checkpoint; the same arguments give the same bytes. number >= 0.

    Raises ValueError for a record that would not come back from JSON as it is: numbers that are not finite, keys that
    are no strings, tuples, arrays.
    """
    named = [part._asdict() for part in parts]
    try:
        text = json.dumps({"format": FORMAT, "number": number, "record": record, "parts": named}, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"pack: the record has no form in JSON: {error}") from error
    if not _same(json.loads(text)["record"], record):
        raise ValueError("pack: JSON changes the record; dicts with keys of text, lists, text, numbers and None fit")
    body = text.encode("ascii")[:-1]  # without the brace that ends it
    return body + _end(body)


def unpack(manifest: bytes, data: Iterable[bytes]) -> Loaded:
    """A checkpoint from its manifest and the bytes of its parts, in order; raises CheckpointError for damaged ones."""
    fields, tree = parse(manifest), {}
    for part, piece in zip(parts_of(fields), data, strict=True):
        verify(part, len(piece), sha256(piece))
        try:
            tree |= tree_from_bytes(piece)
        except (KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"its data are whole, and are no checkpoint's ({error})") from error
    return Loaded(tree, fields["record"], fields["number"])


def verify(part: Part, size: int, digest: str) -> None:
    """Raises CheckpointError where bytes of this size and SHA-256 are not the part's."""
    if size != part.size:
        raise CheckpointError(f"its data are {size} bytes, and {part.size} were written")
    if digest != part.sha256:
        raise CheckpointError("its data are damaged: their SHA-256 is not the manifest's")


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


def parts_of(fields: dict[str, Any]) -> list[Part]:
    """The parts that a parsed manifest names."""
    return [Part(**part) for part in fields["parts"]]


def chunks(tree: trees.Tree) -> Iterator[bytes | np.ndarray]:
    """Nested dicts of tensors on the CPU as the bytes of a safetensors file, piece by piece, without a copy of them.

    A tensor is named by its path (`params.classifier.weight`); the order of the tree and empty dicts come back. Views
    and tensors in several places are written as what they show; strides are not kept. Raises TypeError for a leaf that
    is no tensor, or of a type that safetensors doesn't name everywhere, ValueError for a key with a dot.
    """
    leaves = trees.to_paths(tree)
    for path, leaf in leaves.items():
        found = leaf.dtype if isinstance(leaf, torch.Tensor) else f"type {type(leaf).__name__}"
        if found not in _DTYPES:
            raise TypeError(f"chunks: {path} is of {found}; tensors of {', '.join(_DTYPES.values())} fit")
    # As the library orders them, wide numbers first: each then lies at a multiple of its size.
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
        yield leaves[path].detach().contiguous().reshape(-1).view(torch.uint8).numpy()


def describe(tree: trees.Tree, *, number: int) -> Part:
    """The part that checkpoint `number` makes of a tree."""
    found, size = hashlib.sha256(), 0
    for chunk in chunks(tree):
        found.update(chunk)
        size += len(chunk)
    return Part(number, found.hexdigest(), size)


def tree_from_bytes(data: bytes) -> trees.Tree:
    """The inverse of `chunks`: the same bits, on the CPU. Raises ValueError, KeyError or SafetensorError for other
    bytes; it doesn't notice changed numbers."""
    tensors = safetensors.torch.load(data)
    # Of the header torch's loader gives the tensors alone. It sorts them, and another order is another compiled graph.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    order = json.loads(header["__metadata__"]["paths"])
    # Cloned into memory that torch allots: at another alignment some kernels round differently.
    return trees.from_paths({path: tensors.pop(path).clone() if path in tensors else {} for path in order})


def sha256(data: bytes) -> str:
    """The SHA-256 of bytes, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def _end(body: bytes) -> bytes:
    """What ends a manifest whose bytes before it are `body`."""
    return f', "self": "{sha256(body)}"}}\n'.encode("ascii")


def paths(tree: trees.Tree, prefix: str = "") -> list[str]:
    """The paths of leaves and of empty dicts, in order."""
    found = []
    for key, value in tree.items():
        inner = isinstance(value, dict) and value
        found += paths(value, f"{prefix}{key}.") if inner else [f"{prefix}{key}"]
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
