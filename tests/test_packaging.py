"""What an installed package has: cil_func/pyproject.toml against requirements.txt and the files that are there."""

import re
import tomllib
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

import pytest

from cil_func import __main__ as door

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cil_func"
PROJECT = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))
NOT_INSTALLED = {"pyproject.toml", "LICENSE"}  # the licence comes into the metadata


def runtime_requirements() -> list[str]:
    """Returns the requirements above the line that begins those of the tests, without their comments."""
    runtime, tests = (ROOT / "requirements.txt").read_text(encoding="utf-8").split("# the tests and the lint\n")
    assert "pytest" in tests
    lines = (line.partition("#")[0].strip() for line in runtime.splitlines())
    return [line for line in lines if line]


def test_the_dependencies_are_those_of_requirements():
    assert PROJECT["project"]["dependencies"] == runtime_requirements()


def test_all_packages_are_listed():
    """setuptools doesn't find packages in a folder that is itself one: add a new folder to tool.setuptools.packages."""
    folders = {path.parent.relative_to(ROOT) for path in PACKAGE.rglob("*.py")}
    assert PROJECT["tool"]["setuptools"]["packages"] == sorted(".".join(folder.parts) for folder in folders)


def test_all_other_files_are_installed_too():
    """Presets, the mark of types, pages and their figures: each matches a pattern of tool.setuptools.package-data."""
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["*"]
    packages = {path.parent for path in PACKAGE.rglob("*.py")}
    left = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*") if path.is_file()}
    for path in PACKAGE.rglob("*"):
        owner = next(folder for folder in path.parents if folder in packages)
        name = str(path.relative_to(owner))
        if path.suffix in (".py", ".pyc") or any(matches(name, pattern) for pattern in patterns):
            left.discard(str(path.relative_to(PACKAGE)))
    assert {name for name in left if ".egg-info/" not in name} == NOT_INSTALLED


def matches(name: str, pattern: str) -> bool:
    """Returns whether setuptools finds a file by a pattern: a star doesn't go beyond a folder."""
    return name.count("/") == pattern.count("/") and fnmatch(name, pattern)


def test_the_version_is_written_once():
    assert "version" not in PROJECT["project"] and PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "cil_func.__version__"}
    assert len(re.findall(r'^__version__ = "\d+\.\d+\.\d+"$', (PACKAGE / "__init__.py").read_text(), re.MULTILINE)) == 1


def test_the_license_is_named_and_there():
    assert PROJECT["project"]["license"] == "MIT" and PROJECT["project"]["license-files"] == ["LICENSE"]
    assert (PACKAGE / "LICENSE").read_text(encoding="utf-8").startswith("MIT License\n")


def test_the_command_of_an_installed_package_is_the_door(monkeypatch, capsys):
    module, _, function = PROJECT["project"]["scripts"]["cil-func"].partition(":")
    monkeypatch.setattr("sys.argv", ["cil-func", "--help"])
    with pytest.raises(SystemExit) as ended:
        getattr(import_module(module), function)()
    assert ended.value.code == 0 and capsys.readouterr().out == f"{door.listed()}\n"
