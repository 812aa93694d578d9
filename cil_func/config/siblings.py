"""Lets a user's own file import the modules that lie beside it, and refuses two own files that need two of one name.

Python has one module of a name. So a module beside an own file is claimed for that file's folder before the file is
run, and from then on its name stands for the module there, wherever and whenever it is imported. The standard library,
installed packages and this package come first, as ever: their names are never claimed.
"""

import ast
import importlib
import importlib.util
import os
import site
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from cil_func.errors import ConfigError

_PACKAGE = Path(__file__).parents[1]
_FOLDERS = (*map(sysconfig.get_path, ("stdlib", "purelib", "platlib")), *site.getsitepackages())
_LIBRARIES = tuple(f"{folder}{os.sep}" for folder in (*_FOLDERS, site.getusersitepackages(), _PACKAGE))
_NEVER = {*sys.stdlib_module_names, "__main__", _PACKAGE.name}  # a folder with own files may be a copy of the package
_CLAIMED: dict[str, tuple[str, str]] = {}  # {top-level module: (the folder that has it, the own file that imports it)}
_ADDED: list[str] = []  # folders that were put into sys.path here
_INSERTED: list[str] = []  # folders that own code has put there itself
_EARLIER: set[str] = set()  # the modules that were there before any own code was run
_RUNNING: list[None] = []  # one for each own file that is being run


class _Finder(MetaPathFinder):
    """Finds claimed modules in their folders, whatever the order of sys.path is."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, [_CLAIMED[fullname][0]]) if fullname in _CLAIMED else None
        if spec and not spec.origin:  # without __init__.py, which Python would look for in other own folders too
            specs = [spec, PathFinder.find_spec(fullname, _search_path())]
            parts = [part for each in specs if each for part in each.submodule_search_locations or ()]
            spec.submodule_search_locations = list(dict.fromkeys(parts))
        return spec


_FINDER = _Finder()


def claim(names: Iterable[str], folder: str, *, who: str, key: str) -> None:
    """Claims the modules of a folder that are imported, and those that they import from there, in functions too.

    names: dotted names of what is imported; those that aren't in the folder are passed over. who: the own file or
    module that imports them, and key: the dotted key that names it, both for the message.
    Adds the folder to the end of sys.path. Raises ConfigError, and claims nothing, if a name is that of another module.
    """
    importlib.invalidate_caches()
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else 0, _FINDER)
    free = []
    for top, files in sorted(_beside(names, folder).items()):
        owner, other = _CLAIMED.get(top) or _loaded(top, folder)
        if owner and owner != folder:
            there = PathFinder.find_spec(top, [owner]) is not None
            if (there or top in sys.modules) and not _are_equal(files, owner, folder):
                another = f"{other} imports another {top} from {owner}"
                raise ConfigError(f"{key}: {who} imports {top} from {folder}, and {another}; rename one of the two")
            owner = owner if there else ""
        free += [] if owner else [top]
    _CLAIMED.update(dict.fromkeys(free, (folder, who)))
    can_import_from(folder)


@contextmanager
def running() -> Iterator[None]:
    """For the time in which a user's own file or module is run. Notes which folders it puts into sys.path."""
    if not _EARLIER:
        _EARLIER.update(sys.modules)
    before = [*sys.path]
    _RUNNING.append(None)
    try:
        yield
    finally:
        _RUNNING.pop()
        _INSERTED.extend(each for each in sys.path if each not in before and each not in _ADDED)


def is_running() -> bool:
    """Returns whether a user's own file or module is being run."""
    return bool(_RUNNING)


def forget() -> None:
    """Drops all claims, and the modules that were imported by them or from folders that own code put into sys.path.

    Neither those folders nor the ones that were added here stay in sys.path.
    """
    inserted = tuple(os.path.join(os.path.abspath(each), "") for each in _INSERTED if isinstance(each, str))
    for name, module in [*sys.modules.items()]:
        file = getattr(module, "__file__", None) or ""
        found = file.startswith(inserted) and name not in _EARLIER and not is_library(file)
        if name.partition(".")[0] in _CLAIMED or found:
            del sys.modules[name]
    sys.path[:] = [each for each in sys.path if each not in (*_ADDED, *_INSERTED)]
    for each in (_CLAIMED, _ADDED, _INSERTED, _EARLIER):
        each.clear()


def imported(file: str, package: str = "") -> Iterator[str]:
    """Yields the dotted names that a file's import statements may import, also those inside functions.

    package: the package that the file is in, dotted; "" if it is in none. Of a file that can't be read there are none.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # which its import will show
            nodes = list(ast.walk(ast.parse(Path(file).read_bytes())))
    except (OSError, SyntaxError, ValueError, RecursionError):  # its import will say so
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level <= len(package.split(".") if package else ()):
            start = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{start}.{each.name}" for each in node.names)


def found_in(name: str) -> str:
    """Returns the folder in which a module is found by its dotted name, sys.path first and the current one last.

    Folders that were added to sys.path here don't count. Returns "" if there is none, or an installed one.
    """
    spec = PathFinder.find_spec(name.partition(".")[0], [*_search_path(), os.getcwd()])
    places = [*(spec.submodule_search_locations or ()), spec.origin] if spec else []
    return os.path.dirname(places[0]) if places and places[0] and not is_library(places[0]) else ""


def is_library(file: str) -> bool:
    """Returns whether a path is that of a library or of this package."""
    return file.startswith(("<", *_LIBRARIES))


def can_import_from(folder: str) -> None:
    """Adds a folder to the end of sys.path, if it isn't there: a launcher puts train.py's folder alone there."""
    if folder not in (os.path.abspath(each) for each in sys.path if isinstance(each, str)):
        sys.path.append(folder)
        _ADDED.append(folder)


def _search_path() -> list[str]:
    """Returns sys.path, absolute, without the folders of own files and without entries that Python ignores."""
    return [each for each in (os.path.abspath(one) for one in sys.path if isinstance(one, str)) if each not in _ADDED]


def _beside(names: Iterable[str], folder: str) -> dict[str, set[str]]:
    """Returns {top-level module: its files that are imported, relative to the folder}, of all that lies in a folder.

    names: dotted names that are imported; what these modules import is looked at too.
    """
    todo, seen, found = list(names), set(), dict[str, set[str]]()
    inside: dict[str, bool] = {}  # a folder beside the file may be a large data set: it is looked at once
    while todo:
        name = todo.pop()
        top = name.partition(".")[0]
        if name in seen or not inside.setdefault(top, top in inside or _is_beside(top, folder)):
            continue
        seen.add(name)
        own = found.setdefault(top, set())
        for file, package in _files(name, folder):
            own.add(os.path.relpath(file, folder))
            todo += imported(file, package)
    return found


def _is_beside(top: str, folder: str) -> bool:
    """Returns whether a top-level module lies in a folder and is no module of Python, of a library or this package.

    A folder without __init__.py is one only if there is no regular module of its name, which Python would prefer.
    """
    spec = None if top in _NEVER else PathFinder.find_spec(top, [folder])
    if not spec:
        return False
    preferred = [each for each in _search_path() if not spec.origin or is_library(os.path.join(each, ""))]
    elsewhere = PathFinder.find_spec(top, preferred)
    if elsewhere and elsewhere.origin:
        return False
    return bool(spec.origin) or any(Path(folder, top).rglob("*.py"))


def _files(name: str, folder: str) -> Iterator[tuple[str, str]]:
    """Yields (file, its package) of a dotted name in a folder and of the packages before it, source or not.

    A last part that is no module, but something in one, has none.
    """
    module, places = "", [folder]
    for part in name.split("."):
        spec = PathFinder.find_spec(part, places)
        if not spec:
            return
        package, module = module, f"{module}.{part}" if module else part
        inside = spec.submodule_search_locations
        if spec.origin:
            yield spec.origin, package if inside is None else module
        places = list(inside or ())


def _loaded(top: str, folder: str) -> tuple[str, str]:
    """Returns (the folder, who imports it) of a module that has been imported without a claim; ("", "") if none.

    Of a module that lies in several folders it is `folder`, if that is one of them.
    """
    module = sys.modules.get(top)
    paths = (*getattr(module, "__path__", ()), getattr(module, "__file__", None))
    places = [os.path.dirname(each) for each in paths if each]
    if not places:
        return "", ""
    return folder if folder in places else places[0], "this process"


def _are_equal(files: Iterable[str], one: str, other: str) -> bool:
    """Returns whether two folders have the same files at these paths; some at least, and all can be read."""
    try:
        return bool(files) and all(Path(one, each).read_bytes() == Path(other, each).read_bytes() for each in files)
    except OSError:
        return False
