"""Lets a user's own file import the modules that lie beside it, whatever other own files have imported."""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_FOLDERS: list[str] = []  # of own files that were imported
_NEVER_HIDDEN = ("__main__", __name__.partition(".")[0])  # a folder with own files may be a copy of this repository


@contextmanager
def first(folder: str) -> Iterator[None]:
    """Returns a context manager in which a file's imports find modules of its own folder before those of other files'.

    Python has one module of a name. What another own file has imported under the name of a module of this folder is
    hidden meanwhile. System and installed modules come first, as ever.
    """
    can_import_from(folder)
    others = {os.path.abspath(each) for each in _FOLDERS} - {folder}
    _FOLDERS.append(folder)
    hidden = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _NEVER_HIDDEN:
            continue
        top = sys.modules.get(name.partition(".")[0])
        file = os.path.abspath(getattr(top, "__file__", None) or "")
        holder = os.path.dirname(os.path.dirname(file) if hasattr(top, "__path__") else file)
        beside = os.path.join(folder, name.partition(".")[0])
        if holder in others and (os.path.isfile(f"{beside}.py") or os.path.isfile(f"{beside}/__init__.py")):
            hidden[name] = module
    for name in hidden:
        del sys.modules[name]
    before = list(sys.path)
    sys.path.sort(key=lambda each: os.path.abspath(each) in others)  # a stable order, the other own folders last
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before
        for name, module in hidden.items():
            sys.modules.setdefault(name, module)


def can_import_from(folder: str) -> None:
    """Adds a folder to the end of sys.path, if it isn't there: a launcher puts train.py's folder alone there."""
    if folder not in (os.path.abspath(each) for each in sys.path):
        sys.path.append(folder)
