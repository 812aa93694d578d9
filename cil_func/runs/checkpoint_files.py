"""The files of a folder of checkpoints: their names, and whether they are what was written.

    00000012.json                         the manifest of checkpoint 12 (`packing`)
    00000012-1f3a….safetensors            a part that checkpoint 12 wrote first, named by the start of its SHA-256
"""

import contextlib
import hashlib
import re
from pathlib import Path
from typing import Any

from cil_func.errors import CheckpointError
from cil_func.runs import packing
from cil_func.runs.packing import Part

_NAME = re.compile(r"(\d{8,})(\.json|-[0-9a-f]{16}\.safetensors)")


def found(directory: Path) -> dict[int, list[str]]:
    """The names of the files in the folder by the number that they begin with; raises OSError."""
    names: dict[int, list[str]] = {}
    with contextlib.suppress(FileNotFoundError):  # no folder: nothing was saved yet
        for path in directory.iterdir():
            if match := _NAME.fullmatch(path.name):
                names.setdefault(int(match[1]), []).append(path.name)
    return names


def manifest_name(number: int) -> str:
    return f"{number:08d}.json"


def part_name(part: Part) -> str:
    return f"{part.number:08d}-{part.sha256[:16]}.safetensors"


def read_manifest(directory: Path, number: int) -> tuple[bytes, dict[str, Any]]:
    """(its bytes, its fields); raises CheckpointError."""
    missing = "is missing, as when the process ended while it saved"
    manifest = read(directory / manifest_name(number), missing=missing)
    fields = packing.parse(manifest)
    if fields["number"] != number:
        raise CheckpointError(f"its manifest is that of checkpoint {fields['number']}")
    return manifest, fields


def parts(directory: Path, number: int) -> list[Part]:
    """What a checkpoint's manifest names; nothing where it is missing or damaged. Raises OSError: who knows then."""
    try:
        return packing.parts_of(packing.parse((directory / manifest_name(number)).read_bytes()))
    except (FileNotFoundError, CheckpointError):
        return []


def whole(directory: Path, number: int, *, hashed: bool) -> bool:
    """Whether a checkpoint's manifest is sound and its parts are there in full; hashed: to the last bit."""
    try:
        named = packing.parts_of(read_manifest(directory, number)[1])
        return all(there(directory, part) and (not hashed or _unchanged(directory, part)) for part in named)
    except CheckpointError:
        return False


def there(directory: Path, part: Part) -> bool:
    """Whether the part's file is there and has the size of what was written."""
    try:
        return (directory / part_name(part)).stat().st_size == part.size
    except OSError:
        return False


def read(path: Path, *, missing: str = "is missing") -> bytes:
    """A file's bytes; raises CheckpointError."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.name} {missing}") from error
    except OSError as error:
        raise CheckpointError(f"{path.name} can't be read ({error.strerror})") from error


def _unchanged(directory: Path, part: Part) -> bool:
    try:
        with open(directory / part_name(part), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == part.sha256
    except OSError:
        return False
