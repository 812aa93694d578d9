"""The rooms of the package: which may import which, how many there are, and how long a file may be.

All imports are read from the source by `ast`, so also those inside functions.
"""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "cil_func"

# From the ground up. A room is a module or a folder at the top of the package. It may import from itself and from the
# rows before its own; rooms of one row are siblings and don't import each other.
ORDER = (
    ("errors", "rng", "tree"),
    ("classifier", "losses", "herding", "metrics", "optim"),
    ("memory",),
    ("config",),
    ("networks",),
    ("model",),
    ("methods", "data"),
    ("parallel",),
    ("training",),
    ("experiment",),
    ("report",),
    ("runs",),
    ("deploy", "studies"),
    ("__init__",),
    ("tutorial",),  # its chapters use the package as others do
    ("__main__",),
)
# Modules that are commands, which count as part of the last row whatever room they are in.
COMMANDS = ("cil_func.report.__main__",)
# Functions below these rooms get the values they need, not the configuration.
SEE_CONFIG = ("config", "runs", "deploy", "studies", "tutorial", "__main__", "__init__")
# Imports against the order, each (module, what it imports). This list must become empty and stay so.
ARROWS_UP: frozenset[tuple[str, str]] = frozenset()

MOST_ROOMS = 24
MOST_LINES = 250
LONGER = {  # files that may be longer, and why
    "cil_func/config/schema.py": "one field after the other, with what each means",
    "cil_func/metrics.py": "the measures of the field, each with its definition and source",
    "benchmarks/run.py": "a whole run by two trainers, with its command line",
}
CHAPTERS = "cil_func/tutorial/chapter_"  # text for the most part
MOST_LINES_OF_A_CHAPTER = 400


def modules() -> dict[str, Path]:
    """Returns {dotted name: file} of all modules of the package; a folder's __init__ has the folder's name."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(source: str, *, types: bool = True) -> Iterator[str]:
    """Yields the modules of the package that a source text imports, by full name.

    types: whether imports under `if TYPE_CHECKING:` count, which are never executed.
    """
    tree = ast.parse(source)
    unexecuted = [
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for node in block.body
    ]
    for node in ast.walk(tree):
        if node in unexecuted and not types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import"
            if node.module.split(".")[0] == PACKAGE:
                names = (f"{node.module}.{alias.name}" for alias in node.names)
                yield from (name if name in MODULES else node.module for name in names)


def room_of(module: str) -> str:
    """Returns the room of a module: "runs" for "cil_func.runs.lock"; "__init__" for the package itself."""
    if module in COMMANDS:
        return "__main__"
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}


@functools.cache
def sources() -> dict[str, str]:
    """Returns {module: its source text}."""
    return {name: path.read_text(encoding="utf-8") for name, path in MODULES.items()}


@functools.cache
def edges() -> dict[str, list[str]]:
    """Returns {module: the modules that it imports}."""
    return {name: sorted(set(imports(source))) for name, source in sources().items()}


def arrows_up(graph: dict[str, list[str]]) -> set[tuple[str, str]]:
    """Returns the imports that run from a room to a sibling or to a room above it."""
    return {
        (name, imported)
        for name, found in graph.items()
        for imported in found
        if room_of(name) != room_of(imported) and LEVEL[room_of(imported)] >= LEVEL[room_of(name)]
    }


def circle(graph: dict[str, list[str]]) -> list[str]:
    """Returns the modules of a circle of imports, the first one again at the end; [] if there is none."""
    state: dict[str, bool] = {}  # False: on the path from the start to here; True: done

    def visit(name: str, path: list[str]) -> list[str]:
        if name in state:
            return [] if state[name] else path[path.index(name) :]
        state[name] = False
        for imported in graph.get(name, ()):
            if imported != name and (found := visit(imported, [*path, imported])):
                return found
        state[name] = True
        return []

    return next((found for name in graph if (found := visit(name, [name]))), [])


def test_every_room_has_its_place():
    assert {room_of(name) for name in MODULES} <= set(LEVEL)


def test_the_package_says_what_its_rooms_are():
    """One line each, from the ground up."""
    text = ast.get_docstring(ast.parse(sources()[PACKAGE]), clean=False)
    listed = re.findall(r"^    (\w+) {2,}\S", text, re.MULTILINE)
    assert sorted(listed) == sorted({room_of(name) for name in MODULES} - {"__init__"})
    assert listed == sorted(listed, key=LEVEL.get)


def test_the_package_itself_imports_nothing():
    """Importing it must not take torch's seconds."""
    nodes = ast.parse(sources()[PACKAGE]).body  # those inside of functions and `if TYPE_CHECKING:` are not executed
    found = [ast.unparse(node) for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert found == ["from typing import TYPE_CHECKING"]


def test_imports_run_down_the_rooms():
    assert arrows_up(edges()) == ARROWS_UP


def test_the_configuration_is_seen_by_runs_and_above_alone():
    seen = {(name, imported) for name, found in edges().items() for imported in found if room_of(imported) == "config"}
    assert {pair for pair in seen if room_of(pair[0]) not in SEE_CONFIG} == set()


def test_no_modules_import_each_other_in_a_circle():
    """Imports of types alone may be circular."""
    executed = {name: sorted(set(imports(source, types=False))) for name, source in sources().items()}
    assert circle(executed) == []


def test_there_are_few_rooms():
    """Counts modules and folders at the top. __init__ and __main__ don't count, for Python prescribes them."""
    rooms = {room_of(name) for name in MODULES} - {"__init__", "__main__"}
    assert len(rooms) <= MOST_ROOMS


def test_files_are_short():
    files = [path for folder in (PACKAGE, "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
    lengths = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in files}
    chapters = {name: lengths.pop(name) for name in [*lengths] if name.startswith(CHAPTERS)}
    assert {name for name, lines in lengths.items() if lines > MOST_LINES} == set(LONGER)
    assert {name for name, lines in chapters.items() if lines > MOST_LINES_OF_A_CHAPTER} == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os\nfrom cil_func import rng, tree", ["cil_func.rng", "cil_func.tree"]),
        ("def f():\n    from cil_func.runs.lock import NAME", ["cil_func.runs.lock"]),
        ("from cil_func.runs import lock, nothing", ["cil_func.runs.lock", "cil_func.runs"]),
        ("import cil_func.runs.lock as x\nfrom cil_functions import y", ["cil_func.runs.lock"]),
    ],
)
def test_imports_are_found(source, found):
    assert list(imports(source)) == found


def test_imports_of_types_are_told_apart():
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from cil_func import rng\nimport cil_func.tree"
    assert sorted(imports(source)) == ["cil_func.rng", "cil_func.tree"]
    assert list(imports(source, types=False)) == ["cil_func.tree"]


def test_what_is_wrong_is_noticed():
    wrong = {"cil_func.tree": ["cil_func.errors"], "cil_func.data.a": ["cil_func.data.b", "cil_func.methods.wa"],
             "cil_func.data.b": ["cil_func.rng"], "cil_func.report.lines": ["cil_func.runs.files"],
             "cil_func.report.__main__": ["cil_func.runs.files"]}  # fmt: skip
    assert arrows_up(wrong) == {
        ("cil_func.tree", "cil_func.errors"),
        ("cil_func.data.a", "cil_func.methods.wa"),
        ("cil_func.report.lines", "cil_func.runs.files"),
    }
    assert circle(wrong) == []
    back = wrong | {"cil_func.rng": ["cil_func.data.a"]}
    assert circle(back) == ["cil_func.data.a", "cil_func.data.b", "cil_func.rng", "cil_func.data.a"]
