"""Runs a chapter, cell by cell."""

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from typing import Any, NamedTuple

from cil_func.tutorial import figures
from cil_func.tutorial.cells import Cell, Chapter
from cil_func.tutorial.figures import Shown


class CellRun(NamedTuple):
    """A cell that was run. output: what it printed. figures: what it showed. Both are empty for text."""

    cell: Cell
    output: str = ""
    figures: tuple[Shown, ...] = ()


def run(chapter: Chapter, names: dict[str, Any] | None = None) -> Iterator[CellRun]:
    """Runs the cells of a chapter in order, each when the iterator is asked for it. Returns an iterator over CellRun.

    names: the variables of the chapter's code, {name: value}, to which the cells add theirs; None: a new dict. What a
    cell raises is raised by the iterator; its traceback has the lines of the chapter's file.
    """
    names = {} if names is None else names
    names |= {"__name__": chapter.path.stem, "__file__": str(chapter.path)}
    for cell in chapter.cells:
        yield CellRun(cell) if cell.kind == "text" else _run_code(cell, chapter, names)


def _run_code(cell: Cell, chapter: Chapter, names: dict[str, Any]) -> CellRun:
    """Runs one cell of code with the variables `names`."""
    code = compile("\n" * (cell.line - 1) + cell.source, str(chapter.path), "exec")
    with redirect_stdout(io.StringIO()) as output, figures.collected() as shown:
        try:
            exec(code, names)
        except Exception as error:
            place = f"in the cell at line {cell.line} of {chapter.path.name}"
            error.add_note(f"{place}; printed before:\n{output.getvalue()}")
            raise
    return CellRun(cell, output.getvalue(), tuple(shown))
