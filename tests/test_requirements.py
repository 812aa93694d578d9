"""Every package that requirements.txt asks for is there for something."""

import ast
import re
import tomllib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

import train

ROOT = Path(train.__file__).parent
EXTRAS = tomllib.loads((ROOT / "cil_func/pyproject.toml").read_text())["project"]["optional-dependencies"]
REQUIRED = re.findall(r"^[A-Za-z0-9_.-]+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)


def modules_imported(folder: Path) -> set[str]:
    """Top-level names of all that the Python files in a folder import, wherever in the file."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
            found |= {name.split(".")[0] for name in names}
    return found


@pytest.fixture(scope="module")
def imported() -> set[str]:
    """Distributions that the project's own files import, in lower case with dashes."""
    modules = set.union(*(modules_imported(ROOT / folder) for folder in ("cil_func", "benchmarks", "tests")))
    return {
        re.sub(r"[-_.]+", "-", name).lower()
        for module, names in metadata.packages_distributions().items() if module in modules for name in names
    }  # fmt: skip


@pytest.mark.parametrize("name", REQUIRED)
def test_a_required_package_is_imported_somewhere(name, imported):
    """But for pytest's plugins, which it finds by itself, tools with a file of settings, what continuum forgot, and
    what is optional for the package, of which torch imports onnxscript by itself.
    """
    if name == "six":
        assert "six" in modules_imported(Path(find_spec("continuum").origin).parent)
        return
    optional = any(name in packages for packages in EXTRAS.values())
    plugin = any(point.group == "pytest11" for point in metadata.distribution(name).entry_points)
    tool = any((ROOT / f".{name}.{kind}").exists() for kind in ("toml", "ini"))
    assert name.lower() in imported or plugin or tool or optional, f"{name} is required, and nothing imports it"


def test_the_list_is_read_as_pip_reads_it():
    assert {"torch", "einops", "scikit-learn", "pytest"} <= set(REQUIRED) and len(REQUIRED) >= 16
