"""Reads some of a run's exemplars as small pictures, for its report."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cil_func.report.material import Exemplars

_MOST_OF_CLASS = 12  # pictures of a class
_MOST_PICTURES = 1500  # of all classes together, so that the page stays small
_SIDE = 96  # pixels; larger images are shown reduced
_SMALL = 12_000  # bytes; a file up to this size is shown as it is


def read(folder: Path) -> list[Exemplars]:
    """Returns the exemplars of each class that memory.json lists, with the first pictures of each; [] if there is none.

    folder: a run's memory/. Files that somebody has deleted don't count. A file that can't be read as an image has no
    picture.
    """
    try:
        classes = json.loads((folder / "memory.json").read_text(encoding="utf-8"))["classes"]
        listed = [(str(each["name"]), [folder / image["file"] for image in each["images"]]) for each in classes]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    shown = max(1, min(_MOST_OF_CLASS, _MOST_PICTURES // max(1, len(listed))))
    return [_of_class(name, paths, shown) for name, paths in listed]


def _of_class(name: str, paths: Sequence[Path], shown: int) -> Exemplars:
    """Returns a class's exemplars. paths: of its images, in order of rank. shown: how many get a picture."""
    there = [path for path in paths if path.is_file()]
    pictures = [found for path in there[:shown] if (found := _picture(path))]
    return Exemplars(name, len(there), pictures)


def _picture(path: Path) -> tuple[str, bytes] | None:
    """Returns (MIME type, bytes) of an image file, reduced if it is large; None if it can't be read."""
    from PIL import Image  # late: only a run with exemplars needs it

    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as opened:
            kind = Image.MIME.get(opened.format or "", "")
            if len(content) <= _SMALL and kind in ("image/png", "image/jpeg"):
                opened.verify()
                return kind, content
            image: Any = opened.convert("RGB")
        image.thumbnail((_SIDE, _SIDE))
        reduced = io.BytesIO()
        image.save(reduced, format="JPEG", quality=80)
        return "image/jpeg", reduced.getvalue()
    except Exception:  # Pillow raises many kinds for a damaged file
        return None
