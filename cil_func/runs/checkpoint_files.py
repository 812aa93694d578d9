"""Names, reads and checks the files in a folder of checkpoints.

    00000012.json                         the manifest of checkpoint 12, see `packing`
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


def list_names(directory: Path) -> dict[int, list[str]]:
    """Returns {checkpoint number: names of the files that begin with it}; {} if there is no such folder.

    directory: a run's checkpoints/. Files with other names are left out.
    Raises OSError if the folder can't be listed.
    """
    names: dict[int, list[str]] = {}
    with contextlib.suppress(FileNotFoundError):  # no checkpoint has been saved yet
        for path in directory.iterdir():
            if match := _NAME.fullmatch(path.name):
                names.setdefault(int(match[1]), []).append(path.name)
    return names


def manifest_name(number: int) -> str:
    """Returns the name of the manifest of checkpoint `number`."""
    return f"{number:08d}.json"


def part_name(part: Part) -> str:
    """Returns the name of the file that holds a part: its number and the first 16 digits of its SHA-256."""
    return f"{part.number:08d}-{part.sha256[:16]}.safetensors"


def read_manifest(directory: Path, number: int) -> tuple[bytes, dict[str, Any]]:
    """Reads the manifest of checkpoint `number`. Returns (its bytes, its fields, see `packing.parse_manifest`).

    directory: a run's checkpoints/.
    Raises CheckpointError if it is missing, unreadable, damaged or that of another checkpoint.
    """
    missing = "is missing, as when the process ended while it saved"
    manifest = read_bytes(directory / manifest_name(number), missing=missing)
    fields = packing.parse_manifest(manifest)
    if fields["number"] != number:
        raise CheckpointError(f"its manifest is that of checkpoint {fields['number']}")
    return manifest, fields


def parts_of_checkpoint(directory: Path, number: int) -> list[Part]:
    """Returns the parts that the manifest of checkpoint `number` names; [] if it is missing or damaged.

    directory: a run's checkpoints/.
    Raises OSError if it can't be read for another reason, since then nobody knows which parts are in use.
    """
    try:
        return packing.parts_of(packing.parse_manifest((directory / manifest_name(number)).read_bytes()))
    except (FileNotFoundError, CheckpointError):
        return []


def is_valid(directory: Path, number: int, *, hashed: bool) -> bool:
    """Returns whether the manifest of checkpoint `number` is undamaged and its parts have the size that was written.

    directory: a run's checkpoints/. hashed: whether to read the parts and compare the SHA-256 of each too.
    A file that can't be read counts as damaged; nothing is raised.
    """
    try:
        named = packing.parts_of(read_manifest(directory, number)[1])
        return all(has_written_size(directory, part) and (not hashed or _same_hash(directory, part)) for part in named)
    except CheckpointError:
        return False


def has_written_size(directory: Path, part: Part) -> bool:
    """Returns whether the part's file exists in the folder and has the size that was written, without reading it."""
    try:
        return (directory / part_name(part)).stat().st_size == part.size
    except OSError:
        return False


def read_bytes(path: Path, *, missing: str = "is missing") -> bytes:
    """Returns the content of a file. Raises CheckpointError if it can't be read.

    missing: what the error says of a file that doesn't exist, after its name.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.name} {missing}") from error
    except OSError as error:
        raise CheckpointError(f"{path.name} can't be read ({error.strerror})") from error


def _same_hash(directory: Path, part: Part) -> bool:
    try:
        with open(directory / part_name(part), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == part.sha256
    except OSError:
        return False
