"""Chapters and their cells: reads the files chapter_NUMBER_TITLE.py.

A cell begins with one of three lines and ends where the next one begins:

    # %% [markdown]    text: the lines that follow are comments, and what is behind "# " is Markdown
    # %%               code
    # %% answer        code that answers a question of the text; a page hides it until the reader opens it

The first cell is text, and its first line, "# NUMBER. TITLE" as a Markdown heading, is the chapter's title.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cil_func.errors import ConfigError

FOLDER = Path(__file__).parent
_HEADS: dict[str, Literal["text", "code", "answer"]] = {
    "# %% [markdown]": "text",
    "# %%": "code",
    "# %% answer": "answer",
}


@dataclass(frozen=True)
class Cell:
    """A part of a chapter.

    kind: "text", "code" or "answer". source: Markdown for "text", Python for the others, without its head line and
    without empty lines around it. line: the number of its first line in the file, from 1.
    """

    kind: Literal["text", "code", "answer"]
    source: str
    line: int


@dataclass(frozen=True)
class Chapter:
    """A chapter. number: from 1. path: its file. cells: in order, at least one, the first is text."""

    number: int
    path: Path
    cells: tuple[Cell, ...]

    @property
    def title(self) -> str:
        """The text of its heading, like "1. The problem"."""
        return self.cells[0].source.splitlines()[0].removeprefix("# ")


def chapters(folder: Path = FOLDER) -> dict[int, Path]:
    """Returns {number: file} of the chapters in a folder, in order."""
    found = ((re.fullmatch(r"chapter_(\d+)_\w+", path.stem), path) for path in folder.glob("chapter_*.py"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def chapter(number: int, folder: Path = FOLDER) -> Chapter:
    """Reads a chapter. Raises ConfigError if there is no chapter of this number."""
    paths = chapters(folder)
    if number not in paths:
        raise ConfigError(f"tutorial: there is no chapter {number}; there are {', '.join(map(str, paths))}")
    return Chapter(number, paths[number], parse(paths[number].read_text(encoding="utf-8")))


def parse(source: str) -> tuple[Cell, ...]:
    """Returns the cells of a chapter's source text.

    Raises ValueError, which names the line, if the source doesn't begin with a cell of text, if a cell's first line is
    unknown, or if a cell of text has a line that is no comment.
    """
    lines = source.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("# %%")]
    if not starts or starts[0] != 0 or lines[0] != "# %% [markdown]":
        raise ValueError("line 1: a chapter begins with # %% [markdown]")
    return tuple(_cell(lines, start, stop) for start, stop in zip(starts, [*starts[1:], len(lines)], strict=True))


def _cell(lines: list[str], start: int, stop: int) -> Cell:
    """Returns the cell whose first line is lines[start]. stop: where the next one begins."""
    head = lines[start].rstrip()
    if head not in _HEADS:
        raise ValueError(f"line {start + 1}: {head} begins no cell; known are {', '.join(_HEADS)}")
    body = list(enumerate(lines[start + 1 : stop], start + 2))
    while body and not body[-1][1].strip():
        body.pop()
    while body and not body[0][1].strip():
        del body[0]
    if not body:
        raise ValueError(f"line {start + 1}: an empty cell")
    kind = _HEADS[head]
    content = [_uncommented(line, number) if kind == "text" else line for number, line in body]
    return Cell(kind, "\n".join(content), body[0][0])


def _uncommented(line: str, number: int) -> str:
    """Returns what is behind "# " in a line of text. number: of the line, for the message of ValueError."""
    if not (line == "#" or line.startswith("# ")):
        raise ValueError(f"line {number}: text has to be a comment, behind # and a space")
    return line[2:]
