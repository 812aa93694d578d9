"""Figures of a chapter: a chapter calls `show`, and what runs the chapter collects what was shown."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 120
_COLOURS = 128  # of a picture's palette: a third of the bytes of a PNG with 24 bits a pixel, and it looks the same


@dataclass(frozen=True)
class Shown:
    """A figure that a chapter shows. name: of its file, without extension. caption: one sentence. png: its bytes."""

    name: str
    caption: str
    png: bytes

    def _repr_png_(self) -> bytes:
        """Returns the bytes that Jupyter displays if `show(...)` is the last line of a cell."""
        return self.png


_collector: ContextVar[list[Shown] | None] = ContextVar("collector", default=None)


def show(figure: "Figure", name: str, caption: str) -> Shown:
    """Shows a figure of a chapter, and returns it as a picture.

    figure: made by `report.axes.new_figure`. name: of its file, without the chapter's number. caption: what it shows,
    one or two sentences; a page prints it below the picture.
    """
    shown = Shown(name, caption, _png(figure))
    collector = _collector.get()
    if collector is not None:
        collector.append(shown)
    return shown


@contextmanager
def collected() -> Iterator[list[Shown]]:
    """Returns a context manager whose value is a list: each figure that is shown in its block is appended to it."""
    found: list[Shown] = []
    token = _collector.set(found)
    try:
        yield found
    finally:
        _collector.reset(token)


def _png(figure: "Figure") -> bytes:
    """Returns a figure as the bytes of a PNG file with a palette."""
    from PIL import Image

    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_DPI)
    picture = Image.open(drawn).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    picture.save(small, format="png", optimize=True)
    return small.getvalue()
