"""`python -m cil_func tutorial`: lists the chapters, runs them, and writes them as pages and notebooks."""

import sys
from contextlib import suppress
from pathlib import Path

from cil_func.config.parser import Parser
from cil_func.errors import CilError
from cil_func.runs import files
from cil_func.tutorial import cells, pages, running
from cil_func.tutorial.cells import Chapter
from cil_func.tutorial.running import CellRun

DEFAULT_OUT = "runs/tutorial"


def main(arguments: list[str] | None = None) -> int:
    """Runs chapters, or lists them. Returns the exit status.

    arguments: of the command line, behind the command's name; None: those of this process.
    Exit status 0: done. 2: wrong flags, or no such chapter. 74: DIR can't be written.
    """
    parser = Parser(prog="python -m cil_func tutorial", description=__doc__)
    parser.add_argument("chapters", metavar="CHAPTER", nargs="*", type=int, help="a chapter's number; none: lists all")
    parser.add_argument("--out", metavar="DIR", default=DEFAULT_OUT, help=f"where files go; default {DEFAULT_OUT}")
    parser.add_argument("--markdown", action="store_true", help="also writes DIR/chapter_....md")
    parser.add_argument("--notebook", action="store_true", help="also writes DIR/chapter_....ipynb")
    try:
        options = parser.parse_args(arguments)
        if not options.chapters:
            print(listed())
        for chapter in [cells.chapter(number) for number in options.chapters]:
            _run(chapter, Path(options.out), markdown=options.markdown, notebook=options.notebook)
    except CilError as error:
        with suppress(OSError):  # nobody reads it
            print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def listed() -> str:
    """Returns the text that lists the chapters, one a line."""
    titles = [f"  {cells.chapter(number).title}" for number in cells.chapters()]
    return "\n".join([*titles, "", "python -m cil_func tutorial NUMBER runs a chapter."])


def _run(chapter: Chapter, out: Path, *, markdown: bool, notebook: bool) -> None:
    """Runs a chapter, prints each cell when it is done, and writes the figures and what else is wanted into `out`.

    Raises DiskError if that can't be written.
    """
    import torch  # late: the list of chapters needs none

    torch.set_num_threads(1)  # networks this small gain nothing from more, and on a busy machine threads wait
    runs: list[CellRun] = []
    for run in running.run(chapter):
        runs.append(run)
        _print(pages.piece(chapter, run, folded=False))
        _write(out, {pages.file_of(chapter, figure): figure.png for figure in run.figures})
    if markdown:
        _write(out, {f"{chapter.path.stem}.md": pages.markdown(chapter, runs).encode()})
    if notebook:
        _write(out, {f"{chapter.path.stem}.ipynb": pages.notebook(chapter, runs).encode()})


def _print(text: str) -> None:
    """Prints a piece of Markdown: set on a terminal, as it is elsewhere."""
    if not sys.stdout.isatty():
        print(text, end="\n\n", flush=True)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    console.print(Markdown(text))
    console.print()


def _write(folder: Path, contents: dict[str, bytes]) -> None:
    """Writes files, {path in the folder: content}, and prints their paths. Raises DiskError if it can't."""
    for name, content in contents.items():
        files.make_directory((folder / name).parent)
        files.write_bytes(folder / name, content)
        print(f"written: {folder / name}\n")
