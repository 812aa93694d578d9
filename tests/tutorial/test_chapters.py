"""Each chapter runs, its page is what it prints, its questions have the answers that stand here, its table is true."""

import ast
import math
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

import train
from cil_func import __main__ as door
from cil_func import config
from cil_func.tutorial import cells, command, pages, running

ROOT = Path(train.__file__).parent
FOLDER = ROOT / "cil_func/tutorial"
MOST_BYTES = 60_000  # of a figure

# {chapter: {name of an answer: the value}}, the answers to its two questions "predict, then run".
ANSWERS = {
    1: {"answer_1": pytest.approx(88.9, abs=0.05), "answer_2": [True, True]},
    2: {"answer_1": True, "answer_2": pytest.approx(290 / 330, abs=1e-3)},
    3: {"answer_1": (7, 20), "answer_2": ([4.0, 7.0], [1.0, 7.0])},
    4: {"answer_1": pytest.approx((0.0, 0.0), abs=1e-12), "answer_2": pytest.approx(math.log(8), abs=1e-5)},
    5: {"answer_1": 0, "answer_2": (0.5, 1)},
    6: {"answer_1": {4: [128, 128, 128, 128], 3: [256, 256, 0]}, "answer_2": True},
    7: {"answer_1": (True, True), "answer_2": "lower"},
    8: {"answer_1": 90, "answer_2": ("lwf", "wa")},
}


def masked(page: str) -> str:
    """Returns a page without the numbers and widths of columns of its outputs: another processor rounds otherwise.

    Text and code stay as they are. What is drawn with characters, such as a bar, would differ too, so chapters draw
    figures.
    """

    def without_numbers(output: re.Match[str]) -> str:
        return re.sub(r" +", " ", re.sub(r"-?\d+(\.\d+)?(e[-+]\d+)?", "#", output[0]))

    return re.sub(r"^```text\n.*?^```$", without_numbers, page, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("number", cells.chapters())
def test_a_chapter_runs_and_its_page_is_what_it_says(number):
    """`python -m cil_func tutorial NUMBER --markdown --out cil_func/tutorial/pages` writes the page again."""
    chapter, names = cells.chapter(number), {}
    runs = list(running.run(chapter, names))
    page = (FOLDER / f"pages/{chapter.path.stem}.md").read_text(encoding="utf-8")
    assert masked(pages.markdown(chapter, runs)) == masked(page)
    assert {name: names.get(name) for name in ANSWERS[number]} == ANSWERS[number]
    assert [run.cell.kind for run in runs].count("answer") == len(ANSWERS[number]) == 2
    drawn = {pages.file_of(chapter, figure) for run in runs for figure in run.figures}
    assert drawn and drawn == set(re.findall(r"\]\((figures/\w+\.png)\)", page))
    for name in drawn:
        assert 1000 < (FOLDER / "pages" / name).stat().st_size < MOST_BYTES


def test_no_page_or_figure_is_left_of_a_chapter_that_is_gone():
    written = {path.stem: path.read_text() for path in (FOLDER / "pages").glob("*.md")}
    assert written.keys() == {path.stem for path in cells.chapters().values()}
    shown = {name for page in written.values() for name in re.findall(r"figures/(\w+\.png)", page)}
    assert {path.name for path in (FOLDER / "pages/figures").iterdir()} == shown


def rows_of_concepts() -> list[list[str]]:
    """Returns the cells of each row of the README's table of concepts."""
    lines = [line for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


@pytest.mark.parametrize("row", rows_of_concepts(), ids=lambda row: row[0])
def test_a_concept_has_a_chapter_a_function_a_test_and_a_figure(row):
    """The chapter names function and test, and shows the figure; function and test exist."""
    _, chapter, function, test, figure = row
    ((title, page),) = re.findall(r"^\[(\d+)\]\(pages/(\w+)\.md\)$", chapter)
    source = (FOLDER / f"{page}.py").read_text()
    assert page.startswith(f"chapter_{title}_")
    (name,) = re.findall(r"^`([\w.]+)`$", function)
    module, _, attribute = name.rpartition(".")
    assert callable(getattr(import_module(f"cil_func.{module}"), attribute))
    assert f"`{'.'.join(name.split('.')[-2:])}`" in source, "the chapter's text doesn't name the function"
    ((path, tested),) = re.findall(r"^`(tests/[\w/]+\.py)::(\w+)`$", test)
    functions = [node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)]
    assert tested in functions and f"`{path}::{tested}`" in source
    ((picture,),) = [re.findall(r"^\[\w+\]\(pages/(figures/\w+\.png)\)$", figure)]
    assert picture in (FOLDER / f"pages/{page}.md").read_text()


def test_every_test_that_a_chapter_names_exists():
    for path in cells.chapters().values():
        for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", path.read_text()):
            assert re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE), f"{path.name}: {file}::{name}"


@pytest.mark.parametrize("path", sorted((FOLDER / "pages").glob("*.md")), ids=lambda path: path.stem)
def test_links_of_a_page_lead_to_files_and_its_commands_are_understood(path):
    text = path.read_text(encoding="utf-8")
    prose = re.sub(r"```python\n.*?```", "", text, flags=re.DOTALL)  # code has brackets that look like links
    for target, _, part in re.findall(r"\]\((?!http)([^)#]+)(#?)([^)]*)\)", prose):
        assert (path.parent / target).exists(), target
        headings = re.findall(r"^#+ (.*)$", (path.parent / target).read_text(encoding="utf-8"), re.M) if part else []
        assert not part or part in [heading.lower().replace(" ", "-") for heading in headings]
    blocks = "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    for words in re.findall(r"^(?:torchrun(?: --\S+)* |python )train\.py(.*?)(?: +#.*)?$", blocks, re.MULTILINE):
        options = train.parse(shlex.split(words))
        if not options.extend:  # then the configuration is that of a run, which isn't there
            config.load(options.config or "digits", options.set)
    assert set(re.findall(r"^python -m cil_func (\w+)", blocks, re.MULTILINE)) <= set(door.COMMANDS)


def test_without_a_number_the_chapters_are_listed(capsys):
    assert command.main([]) == 0
    assert "  1. The problem\n" in capsys.readouterr().out


def test_the_command_prints_a_chapter_and_writes_what_is_asked_for(tmp_path, monkeypatch, capsys):
    (tmp_path / "chapter_1_sum.py").write_text("# %% [markdown]\n# # 1. A sum\n\n# %%\nprint(2 + 2)\n")
    monkeypatch.setattr(cells, "chapter", lambda number, read=cells.chapter: read(number, tmp_path))
    assert command.main(["1", "--markdown", "--notebook", "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("# 1. A sum\n\n```python\nprint(2 + 2)\n```\n\n```text\n4\n```\n")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["chapter_1_sum.ipynb", "chapter_1_sum.md"]


def test_mistakes_are_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert command.main(["99"]) == 2
    assert re.fullmatch(r"error: tutorial: there is no chapter 99; there are 1\b.*\n", capsys.readouterr().err)
    assert command.main(["one"]) == 2
    assert capsys.readouterr().err == "error: argument CHAPTER: invalid int value: 'one'; --help lists the flags\n"
