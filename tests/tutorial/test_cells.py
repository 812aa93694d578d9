"""What a chapter's file may contain, and how it becomes cells, a page and a notebook."""

import ast
import base64
import io
import json

import pytest
from PIL import Image

from cil_func.errors import ConfigError
from cil_func.report.axes import new_figure
from cil_func.tutorial import cells, figures, pages, running

SOURCE = """\
# %% [markdown]
# # 7. Sums
#
# Two and two.

# %%
total = 2 + 2
print(total)

# %% answer
from cil_func.report.axes import new_figure
from cil_func.tutorial.figures import show

show(new_figure(1, 1), "empty", "Nothing.")
"""
PAGE = """\
<!-- made from chapter_7_sums.py by: python -m cil_func tutorial 7 --markdown -->

# 7. Sums

Two and two.

```python
total = 2 + 2
print(total)
```

```text
4
```

<details><summary>Run it</summary>

```python
from cil_func.report.axes import new_figure
from cil_func.tutorial.figures import show

show(new_figure(1, 1), "empty", "Nothing.")
```

![Nothing.](figures/7_empty.png)

*Nothing.*

</details>
"""


@pytest.fixture
def chapter(tmp_path):
    (tmp_path / "chapter_7_sums.py").write_text(SOURCE)
    return cells.chapter(7, tmp_path)


def test_cells_know_their_lines(chapter):
    assert [(cell.kind, cell.line) for cell in chapter.cells] == [("text", 2), ("code", 7), ("answer", 11)]
    assert chapter.title == "7. Sums" and chapter.cells[1].source == "total = 2 + 2\nprint(total)"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("print(1)\n", "line 1: a chapter begins with # %% [markdown]"),
        ("# %%\nprint(1)\n", "line 1: a chapter begins with # %% [markdown]"),
        ("# %% [markdown]\n# a\nb\n", "line 3: text has to be a comment, behind # and a space"),
        ("# %% [markdown]\n# a\n\n# %% [raw]\n# b\n", "line 4: # %% [raw] begins no cell; known are "),
        ("# %% [markdown]\n# a\n\n# %%\n\n", "line 4: an empty cell"),
    ],
)
def test_a_file_that_is_no_chapter_is_refused(source, message):
    with pytest.raises(ValueError) as fault:
        cells.parse(source)
    assert str(fault.value).startswith(message)


def test_an_unknown_chapter_lists_the_known(chapter):
    with pytest.raises(ConfigError) as fault:
        cells.chapter(9, chapter.path.parent)
    assert str(fault.value) == "tutorial: there is no chapter 9; there are 7"


def test_the_page_has_text_code_output_and_figures(chapter):
    names = {}
    assert pages.markdown(chapter, list(running.run(chapter, names))) == PAGE
    assert names["total"] == 4


def test_on_the_screen_an_answer_is_not_folded(chapter):
    *_, answer = running.run(chapter)
    assert "<details>" not in pages.piece(chapter, answer, folded=False)


def test_the_notebook_has_the_same_cells_with_their_output(chapter):
    """The keys are those of the notebook format 4.5."""
    text, code, answer = json.loads(pages.notebook(chapter, running.run(chapter)))["cells"]
    assert text == {"id": "cell-0", "cell_type": "markdown", "metadata": {},
                    "source": ["# 7. Sums\n", "\n", "Two and two."]}  # fmt: skip
    assert code["outputs"] == [{"output_type": "stream", "name": "stdout", "text": ["4\n"]}]
    picture = Image.open(io.BytesIO(base64.b64decode(answer["outputs"][0]["data"]["image/png"])))
    assert picture.format == "PNG" and picture.size == (120, 120)


def test_a_notebook_displays_what_show_returns():
    shown = figures.show(new_figure(1, 1), "empty", "Nothing.")
    assert shown._repr_png_() == shown.png and shown.png.startswith(b"\x89PNG")


def test_a_cell_that_fails_names_its_line_in_the_chapters_file(tmp_path):
    path = tmp_path / "chapter_1_wrong.py"
    path.write_text("# %% [markdown]\n# # 1. Wrong\n\n# %%\nprint('before')\n1 / 0\n")
    with pytest.raises(ZeroDivisionError) as fault:
        list(running.run(cells.chapter(1, tmp_path)))
    assert (str(fault.traceback[-1].path), fault.traceback[-1].lineno) == (str(path), 5)  # lineno counts from 0
    assert fault.value.__notes__ == ["in the cell at line 5 of chapter_1_wrong.py; printed before:\nbefore\n"]


@pytest.mark.parametrize("number", cells.chapters())
def test_a_chapter_shows_a_figure_in_the_last_line_of_a_cell(number):
    """Jupyter displays no other one."""
    for cell in cells.chapter(number).cells:
        body = ast.parse(cell.source).body if cell.kind != "text" else []
        calls = [ast.unparse(node).startswith("show(") for node in body]
        assert sum(calls) <= 1 and sum(calls) == sum(calls[-1:]), f"chapter {number}, line {cell.line}"
        assert "show(" not in "".join(ast.unparse(node) for node, call in zip(body, calls, strict=True) if not call)
