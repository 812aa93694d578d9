"""A chapter that was run, as a Markdown page and as a Jupyter notebook."""

import base64
import json
from collections.abc import Iterable
from typing import Any

from cil_func.tutorial.cells import Chapter
from cil_func.tutorial.figures import Shown
from cil_func.tutorial.running import CellRun

FIGURES = "figures"  # the folder of the pictures, beside the pages


def file_of(chapter: Chapter, figure: Shown) -> str:
    """Returns the path of a figure's file, relative to the page: "figures/1_protocol.png"."""
    return f"{FIGURES}/{chapter.number}_{figure.name}.png"


def markdown(chapter: Chapter, runs: Iterable[CellRun]) -> str:
    """Returns the whole page of a chapter. runs: its cells, as they were run."""
    note = f"<!-- made from {chapter.path.name} by: python -m cil_func tutorial {chapter.number} --markdown -->"
    return "\n\n".join([note, *(piece(chapter, run) for run in runs)]) + "\n"


def piece(chapter: Chapter, run: CellRun, *, folded: bool = True) -> str:
    """Returns the Markdown of one cell: text as it is, code in a fence, its output in another, then its figures.

    folded: whether an answer is folded, so that a reader predicts it first.
    """
    if run.cell.kind == "text":
        return run.cell.source
    parts = [f"```python\n{run.cell.source}\n```"]
    if run.output.strip():
        parts.append(f"```text\n{run.output.rstrip()}\n```")
    parts += [f"![{each.caption}]({file_of(chapter, each)})\n\n*{each.caption}*" for each in run.figures]
    content = "\n\n".join(parts)
    if folded and run.cell.kind == "answer":
        return f"<details><summary>Run it</summary>\n\n{content}\n\n</details>"
    return content


def notebook(chapter: Chapter, runs: Iterable[CellRun]) -> str:
    """Returns a chapter as the text of an .ipynb file, with the output and the figures of its cells.

    Source: the notebook format, version 4.5.
    """
    content = {
        "cells": [_notebook_cell(f"cell-{number}", run) for number, run in enumerate(runs)],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _notebook_cell(name: str, run: CellRun) -> dict[str, Any]:
    """Returns a cell in the notebook's format. name: unique in the notebook."""
    cell = {"id": name, "metadata": {}, "source": run.cell.source.splitlines(keepends=True)}
    if run.cell.kind == "text":
        return cell | {"cell_type": "markdown"}
    outputs: list[dict[str, Any]] = []
    if run.output:
        outputs.append({"output_type": "stream", "name": "stdout", "text": run.output.splitlines(keepends=True)})
    for figure in run.figures:
        data = {"image/png": base64.b64encode(figure.png).decode("ascii"), "text/plain": [figure.caption]}
        outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
    return cell | {"cell_type": "code", "execution_count": None, "outputs": outputs}
