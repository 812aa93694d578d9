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


def explain(error: BaseException, config: Config) -> OwnCodeError | None:
    """Returns an error of one line if `error` comes from the run's own files, or from others below their folder.

    So it does if torch.compile can't trace the step of a method or backbone of one's own. Returns None for a CilError,
    which is one line already, and for all other errors.
    """
    places = list(_places(config))
    if isinstance(error, CilError) or not isinstance(error, Exception) or not places:
        return None
    text = str(error).partition("\n")[0]
    frames = [(os.path.abspath(file), line) for file, line, *_ in traceback.extract_tb(error.__traceback__)][::-1]
    for file, line in frames:  # the innermost first
        for is_theirs in (str.__eq__, _is_below):
            for key, place in places:
                source = names.source(place)
                if source and is_theirs(file, source):
                    where = f"line {line}" if file == source else f"{file}, line {line}"
                    return OwnCodeError(f"{key}: {place} failed; {where}: {type(error).__name__}: {text}")
    if type(error).__module__.startswith("torch._dynamo") and config.run.compile:
        traced = [(key, place) for key, place in places if not key.startswith("data.")]
        for key, place in traced[:1]:
            return OwnCodeError(f"{key}: {place} can't be compiled; run.compile=false shows why: {text}")
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
