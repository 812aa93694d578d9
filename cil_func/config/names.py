"""Finds a user's own functions by name: "package.module:function" or "path/file.py:function".

The keys method.name, model.backbone, data.name and optim.name take such a name in place of a built-in one. `bind` finds
the function, checks the keys of the options table ([method.options], [model.options], ...) against its annotations, and
returns it ready to be called. What is wrong in the user's own file is an OwnCodeError of one line, whose __cause__ is
the original exception.

Where a name is looked for:

    path/file.py:function      beside the configuration's file, then in the current directory; from --set, the other way
                               round. `load` makes the path absolute, so that the run directory finds the file again.
    package.module:function    as Python imports it: installed packages, PYTHONPATH, and the current directory last.

What either imports from its own folder is claimed first, see `siblings`.
"""

import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import types
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from cil_func.config import messages, options, siblings
from cil_func.config.messages import shown
from cil_func.errors import CilError, ConfigError, OwnCodeError

_DOTTED = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_PLACE = rf"([^\x00-\x1f]*[^/\\\x00-\x1f]\.py|{_DOTTED})"
PATTERN = rf"^{_PLACE}:{_DOTTED}$"  # for the schema: what Python, Rust and JavaScript read alike
_PARTS = re.compile(rf"(?P<place>{_PLACE}):(?P<function>{_DOTTED})")
_NAMED = "cil_func_user_"  # how a module is called that is named by its file
IMPORTED: dict[str, tuple[str, str]] = {}  # {file or module as a name has it: (path, SHA-256 when it was imported)}


def is_own(name: str) -> bool:
    """Returns whether a name stands for a user's own function, that is, has a colon; "timm:NAME" doesn't."""
    return ":" in name and not name.startswith("timm:")


def located(name: str, folders: Iterable[str | os.PathLike]) -> str:
    """Returns the name with an absolute path if it names a file that is in one of the folders; else as it is.

    name: of a function, own or built-in. folders: searched in this order.
    """
    found = _PARTS.fullmatch(name) if is_own(name) else None
    if not found or not found["place"].endswith(".py"):
        return name
    for folder in folders:
        path = os.path.join(folder, os.path.expanduser(found["place"]))
        if os.path.isfile(path):
            return f"{os.path.abspath(path)}:{found['function']}"
    return name


def bind(
    name: str,
    given_options: Mapping[str, Any],
    *,
    key: str,
    built_in: Mapping[str, Callable],
    given: Collection[str] = (),
) -> Callable[..., Any]:
    """Finds the function that a name stands for and checks its options. Runs a file's code, doesn't call the function.

    name: the value of `key`, a name of `built_in` or a user's own. given_options: the options table beside it.
    key: the dotted key that has the name, like "method.name" or "optim.bias.name"; for messages.
    built_in: {name: function}.
    given: names of the values that the caller passes itself, none of which is an option; the function is given those
    that it has a parameter for, and a function of **keywords alone is given `options`.

    Returns a function that takes the values of `given` as keywords, adds the options, and returns what the named
    function returns. It raises OwnCodeError for whatever a user's own function raises, except for this package's
    errors.
    Raises ConfigError if the function can't be found, or for options that it doesn't take; OwnCodeError, which is a
    ConfigError, if its module can't be imported.
    """
    function = find(name, key=key) if is_own(name) else built_in[name]
    table = f"{key.rpartition('.')[0]}.options"
    keywords = options.arguments(function, given_options, key=table, given=given, name=shown(name))
    named = options.parameters(function)
    # A decorator without functools.wraps shows **keywords alone; the method behind it needs its `options`.
    taken = set(given) & ({"options"} if not named and options.takes_any(function) else set(named))

    def call(**values: Any) -> Any:
        try:
            return function(**keywords, **{each: value for each, value in values.items() if each in taken})
        except CilError:
            raise
        except (Exception, SystemExit) as error:
            if not is_own(name):
                raise
            raise OwnCodeError(f"{key}: {name} failed; {_in_a_line(error, name.rpartition(':')[0])}") from error

    return call


def find(name: str, *, key: str) -> Callable[..., Any]:
    """Imports the function that a user's own name stands for, and returns it. The file's code is run.

    key: as for `bind`.
    Raises ConfigError, one line: the name is malformed, the module can't be imported or doesn't hold such a function.
    """
    parts = _PARTS.fullmatch(name)
    if not parts:
        raise ConfigError(f'{key}: {shown(name)}: write "package.module:function" or "path/file.py:function"')
    place, attribute = parts["place"], parts["function"]
    module = _file(place, key) if place.endswith(".py") else _module(place, key)
    missing: Any = object()
    found = reduce(lambda value, each: getattr(value, each, missing), attribute.split("."), module)
    if callable(found):
        return found
    place = place if place.endswith(".py") else f"{place} ({getattr(module, '__file__', None) or 'built in'})"
    what = f"has no {attribute}" if found is missing else f"has {attribute}, which is no function"
    functions = [each for each, value in vars(module).items() if inspect.isfunction(value) and not each.startswith("_")]
    close = messages.nearest(attribute, functions)
    hint = f"did you mean {close}?" if close else f"its functions: {', '.join(functions[:8]) or 'none'}"
    raise ConfigError(f"{key}: {place} {what}; {hint}")


def loaded() -> set[str]:
    """Returns the absolute paths of the user's own files that are in this process."""
    return {path for name, each in sys.modules.items() if name.startswith(_NAMED) and (path := each.__file__)}


def forget() -> None:
    """Takes the user's own files, and what they have imported from beside them, out of this process.

    For who looks at several runs, which are processes of their own: each may have another module of one name.
    """
    for name in [each for each in sys.modules if each.startswith(_NAMED)]:
        del sys.modules[name]
    siblings.forget()


def _file(place: str, key: str) -> types.ModuleType:
    """Runs a Python file as a module, once in each process, and returns the module.

    place: the file's path; modules in its folder can be imported from then on. key: for messages.
    Raises ConfigError if there is no such file, or if another own file needs another module of a name that it imports;
    OwnCodeError if its code fails.
    """
    path = os.path.abspath(os.path.expanduser(place))
    if not os.path.isfile(path):
        raise ConfigError(f"{key}: no file {place}; looked for in {os.getcwd()} and beside the configuration")
    name = f"{_NAMED}{Path(path).stem}_{zlib.crc32(path.encode(errors='surrogateescape')):08x}"
    if name in sys.modules:
        return sys.modules[name]
    siblings.claim(siblings.imported(path), os.path.dirname(path), who=place, key=key)
    IMPORTED[place] = path, digest(path)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader, "a path that ends in .py has both"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        with siblings.running():
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise OwnCodeError(f"{key}: {place} can't be imported; {_in_a_line(error, path)}") from error
    return module


def _module(place: str, key: str) -> types.ModuleType:
    """Imports a module by its dotted name and returns it. key: for messages.

    Raises ConfigError if there is no such module, or if another own file needs another module of a name that it needs;
    OwnCodeError if its code fails.
    """
    if place in IMPORTED and place in sys.modules:
        return sys.modules[place]
    siblings.can_import_from(os.getcwd())
    if folder := siblings.found_in(place):
        siblings.claim([place], folder, who=place, key=key)
    try:
        with siblings.running():
            module = importlib.import_module(place)
        if file := getattr(module, "__file__", None):
            IMPORTED[place] = os.path.abspath(file), digest(file)
        return module
    except ModuleNotFoundError as error:
        if not f"{place}.".startswith(f"{error.name}."):  # one that the user's own module imports
            raise OwnCodeError(f"{key}: {place} can't be imported; {_in_a_line(error, place)}") from error
        close = messages.nearest(place, [path.stem for path in Path.cwd().glob("*.py")])
        hint = f"did you mean {close}?" if close else 'a file is named by its path, as "path/file.py:function"'
        raise ConfigError(f"{key}: no module {error.name}; {hint}") from error
    except (Exception, SystemExit) as error:
        raise OwnCodeError(f"{key}: {place} can't be imported; {_in_a_line(error, place)}") from error


def source(place: str) -> str:
    """Returns the absolute path of the file that a path, or an imported module's name, stands for; "" if none."""
    if place.endswith(".py"):
        path = os.path.abspath(os.path.expanduser(place))
        return path if os.path.isfile(path) else ""
    return os.path.abspath(getattr(sys.modules.get(place), "__file__", None) or "") if place in sys.modules else ""


def digest(path: str) -> str:
    """Returns the SHA-256 of a file as it is now; "" if it can't be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError:
        return ""


def in_a_line(error: BaseException, file: str, line: int | None, place: str) -> str:
    """Returns where a user's code failed and how: "line 3: KeyError: 'x'"; only the text's first line.

    file, line: of the code that failed, line 0 if that isn't known; of a SyntaxError its own ones count.
    place: the path or module that the message names already; another file's name is added before the line.
    """
    text = str(error)
    if isinstance(error, SyntaxError) and error.filename:
        file, line, text = error.filename, error.lineno, error.msg
    where = "" if not line else f"line {line}: " if os.path.abspath(file) == source(place) else f"{file}, line {line}: "
    text = text.partition("\n")[0]
    return f"{where}{type(error).__name__}{': ' if text else ''}{text}"


def _in_a_line(error: BaseException, place: str) -> str:
    """Returns `in_a_line` of the innermost call outside libraries and this package."""
    return in_a_line(error, *_own_line(error), place)


def _own_line(error: BaseException) -> tuple[str, int]:
    """Returns (file, line) of the innermost call outside libraries and this package; ("", 0) if there is none."""
    found, trace = ("", 0), error.__traceback__
    while trace:
        file = trace.tb_frame.f_code.co_filename
        if not siblings.is_library(file):
            found = (file, trace.tb_lineno)
        trace = trace.tb_next
    return found
