"""The exemplars of a finished run as image files: to look at, to delete from, to extend from.

    memory/memory.json              the classes, and of each image its rank, source and SHA-256
    memory/000-cat/0000.png         class 0 by order of arrival, called "cat"; its exemplar of rank 0

A person may delete images. One that was changed is refused, since nobody knows what it shows now.
"""

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from cil_func.data.images import Images
from cil_func.errors import CheckpointError
from cil_func.memory import Memory
from cil_func.runs import files

FORMAT = 1
FOLDER = "memory"
_SAFE = re.compile(r"[^\w.-]+")  # what is replaced in the name of a class's folder


class Stored(NamedTuple):
    """The exemplars that a run directory holds.

    images: uint8 (N, H, W, 3), in order of class and rank. labels: int64 (N,), each class's place in `class_names`.
    ranks: int64 (N,), each image's place among those of its class, of which some may have been deleted.
    sources: for each image the file that it came from, or what is known of it. class_names: in order of arrival.
    deleted: the files that memory.json names and that are gone, like "000-cat/0003.png".
    """

    images: np.ndarray
    labels: np.ndarray
    ranks: np.ndarray
    sources: tuple[str, ...]
    class_names: tuple[str, ...]
    deleted: tuple[str, ...]


def save(directory: Path, memory: Memory, images: Images, class_names: Sequence[str], sources: Sequence[str]) -> dict:
    """Writes the exemplars into directory/memory, in place of what is there. Returns their size, see `size_of`.

    directory: a run directory. memory: {label: rows of `images`, in order of rank}. class_names: by label.
    sources: of each row the file that it came from, relative to the data set's folder; (): none came from a file.
    The new folder is complete before it gets its name. Raises DiskError.
    """
    height, width = images.shape
    there, folder = directory / FOLDER, directory / f".{FOLDER}.{os.getpid()}.tmp"
    with files.disk_errors(there):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    classes: list[dict[str, Any]] = []
    for label, name in enumerate(class_names):
        inside = _folder_of(label, name)
        rows = memory.get(label, torch.empty(0, dtype=torch.int64))
        if len(rows):
            with files.disk_errors(there):
                (folder / inside).mkdir()
        pixels, entries = images.gather(rows).cpu().numpy(), []
        for rank, (row, image) in enumerate(zip(rows.tolist(), pixels, strict=True)):
            data = _png(image)
            with files.disk_errors(there):  # not synced one by one: `load` compares the SHA-256
                (folder / inside / f"{rank:04d}.png").write_bytes(data)
            source = sources[row] if sources else f"image {row} of the training set"
            entries.append({"file": f"{inside}/{rank:04d}.png", "rank": rank, "source": source,
                            "sha256": hashlib.sha256(data).hexdigest()})  # fmt: skip
        classes.append({"label": label, "name": name, "images": entries})
    size = size_of([len(entry["images"]) for entry in classes], (height, width))
    files.write_json(
        folder / "memory.json", {"format": FORMAT, "image_size": [height, width], **size, "classes": classes}
    )
    remove(directory)
    with files.disk_errors(there):
        os.rename(folder, there)
    return size


def copy(directory: Path, out: Path, names: Mapping[int, str]) -> None:
    """Copies the exemplars of some classes into another run directory. Does nothing if there are none to copy from.

    directory, out: run directories; out has no memory yet. names: {label: name} of the classes that are copied; there
    their labels are 0, 1, ... in this order. Images that a person has deleted stay listed, as `load` tells them.
    Raises CheckpointError if memory.json is damaged, DiskError.
    """
    source, folder = directory / FOLDER, out / FOLDER
    if not (source / "memory.json").exists():
        return
    try:
        found = json.loads((source / "memory.json").read_text(encoding="utf-8"))
        by_label = {each["label"]: each["images"] for each in found["classes"]}
        classes: list[dict[str, Any]] = []
        with files.disk_errors(folder):
            folder.mkdir()
            for new, (label, name) in enumerate(names.items()):
                inside, entries = _folder_of(new, name), []
                for entry in by_label.get(label, []):
                    file = f"{inside}/{Path(entry['file']).name}"
                    entries.append({**entry, "file": file})
                    if (source / entry["file"]).exists():
                        (folder / inside).mkdir(exist_ok=True)
                        shutil.copyfile(source / entry["file"], folder / file)
                classes.append({"label": new, "name": name, "images": entries})
        size = size_of([len(each["images"]) for each in classes], tuple(found["image_size"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{source / 'memory.json'}: can't be used ({error}); put it back from a copy") from error
    files.write_json(folder / "memory.json", found | size | {"classes": classes})


def _folder_of(label: int, name: str) -> str:
    """Returns the name of a class's folder."""
    return f"{label:03d}-{_SAFE.sub('_', name)[:80]}"


def remove(directory: Path) -> None:
    """Deletes directory/memory if it is there. Raises DiskError."""
    with files.disk_errors(directory / FOLDER):
        if (directory / FOLDER).exists():
            shutil.rmtree(directory / FOLDER)


def size_of(per_class: Sequence[int], image_size: tuple[int, int]) -> dict[str, Any]:
    """Returns {"images", "bytes", "per_class"} of so many exemplars of each class, as the results tell it.

    image_size: (H, W). bytes: 3 for each pixel, as the field counts memory, whatever the files take.
    """
    height, width = image_size
    return {
        "images": sum(per_class), "bytes": sum(per_class) * height * width * 3, "per_class": list(per_class),
    }  # fmt: skip


def load(directory: Path) -> Stored | None:
    """Reads the exemplars of a run directory; None if it keeps none.

    Raises CheckpointError if memory.json is damaged or an image is not the one that was written.
    """
    folder = directory / FOLDER
    path = folder / "memory.json"
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise ValueError(f"its format is {found['format']}, and this version reads {FORMAT}")
        named = [(each["label"], entry) for each in found["classes"] for entry in each["images"]]
        names, shape = tuple(each["name"] for each in found["classes"]), (*found["image_size"], 3)
        kept = [(label, entry) for label, entry in named if (folder / entry["file"]).exists()]
        deleted = tuple(entry["file"] for _, entry in named if not (folder / entry["file"]).exists())
        images = np.empty((len(kept), *shape), dtype=np.uint8)
        for row, (_, entry) in enumerate(kept):
            images[row] = _read(folder, entry, shape)
        labels = np.array([label for label, _ in kept], dtype=np.int64)
        ranks = np.array([entry["rank"] for _, entry in kept], dtype=np.int64)
        return Stored(images, labels, ranks, tuple(entry["source"] for _, entry in kept), names, deleted)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: can't be used ({error}); put the folder back from a copy") from error


def _read(folder: Path, entry: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """Returns the pixels of one image, uint8 (H, W, 3). Raises ValueError if its file was changed."""
    data = (folder / entry["file"]).read_bytes()
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise ValueError(f"{entry['file']} was changed; delete it, and it is left out")
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    if pixels.shape != shape:
        raise ValueError(f"{entry['file']} has the shape {pixels.shape}, not {shape}")
    return pixels


def _png(pixels: np.ndarray) -> bytes:
    """Returns an image, uint8 (H, W, 3), as the bytes of a PNG file, which loses nothing."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
