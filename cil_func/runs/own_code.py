"""The files of a user's own that a configuration names: whether they have changed, and their mistakes as one line."""

import os
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from cil_func.config import Config, names, siblings
from cil_func.config.flat import flat
from cil_func.errors import CilError, OwnCodeError

_COMPILED = "torchinductor_"  # in paths of code that torch.compile writes


def digests(config: Config, before: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Returns {path: the SHA-256 that the file had when it was imported} of the files with the run's own functions.

    before: the record of the checkpoint that the run goes on from: what its files were when the run began counts.
    """
    own = dict(names.IMPORTED[place] for _, place in _places(config) if place in names.IMPORTED)
    known = (before or {}).get("own_code") or {}
    return {path: known.get(path, digest) for path, digest in own.items()}


def changed(known: Mapping[str, str]) -> list[str]:
    """Returns the paths of files that are there and have another content. known: from `digests`, of earlier."""
    return [path for path, digest in known.items() if names.digest(path) not in ("", digest)]


def renew(config: Config) -> None:
    """Takes the own files of other configurations out of this process, so that another run's may be imported.

    Theirs go on to work, but for what their functions import only when they are called. A configuration that names no
    own file leaves them, and so does one that an own file asks for while it is run itself.
    """
    wanted = {names.source(place) for _, place in _places(config)}
    if wanted and names.loaded() - wanted and not siblings.is_running():
        names.forget()


def explain(error: BaseException, config: Config) -> OwnCodeError | None:
    """Returns an error of one line if `error` comes from the run's own files, or from others below their folder.

    So it does if torch.compile can't trace the step of a method or backbone of one's own. Returns None for a CilError,
    which is one line already, and for all other errors.
    """
    places = list(_places(config))
    if isinstance(error, CilError) or not isinstance(error, Exception) or not places:
        return None
    own: dict[str, tuple[str, str]] = {}
    for key, place in places:
        own.setdefault(names.source(place), (key, place))
    if found := _failed(error, own):
        key, place, file, line = found
        return OwnCodeError(f"{key}: {place} failed; {names.in_a_line(error, file, line, place)}")
    traced = [f"{key}: {place}" for key, place in places if not key.startswith("data.")]
    if traced and type(error).__module__.startswith("torch._dynamo") and config.run.compile:
        text = str(error).partition("\n")[0]
        return OwnCodeError(f"{' or '.join(traced)} can't be compiled; run.compile=false trains without that: {text}")
    return None


def _failed(error: BaseException, own: Mapping[str, tuple[str, str]]) -> tuple[str, str, str, int] | None:
    """Returns (key, place, file, line): of the named file to blame, and of the innermost own code, which failed.

    own: {path of a named file: (key, place)}. The one to blame is the innermost of them that called the code that
    failed, or is it; if none did, the one in the deepest folder around it. Returns None if no own code has failed.
    """
    frames = [(os.path.abspath(file), line or 0) for file, line, *_ in traceback.extract_tb(error.__traceback__)][::-1]
    for number, (file, line) in enumerate(frames):  # the innermost first
        around = sorted((each for each in own if each and _is_below(file, each)), key=lambda each: -each.count(os.sep))
        if file in own or around:
            callers = [each for each, _ in frames[number:] if each in own]
            return *own[(callers or around)[0]], file, line
    return None


def _is_below(file: str, source: str) -> bool:
    """Returns whether a file is in the folder of a named one or below, and no library's."""
    inside = file.startswith(os.path.dirname(source) + os.sep) and os.path.exists(file)
    return inside and not siblings.is_library(file) and _COMPILED not in file


def _places(config: Config) -> Iterator[tuple[str, str]]:
    """Yields (key, file or module) of each function of the user's own that a configuration names."""
    for key, value in flat(config).items():
        named = key.endswith((".name", ".backbone")) and ".options." not in key
        if named and isinstance(value, str) and names.is_own(value):
            yield key, value.rpartition(":")[0]
