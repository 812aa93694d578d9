"""A user's own files that a run was trained by: whether they have changed since, and their mistakes as one line."""

import os
import sys
from collections.abc import Iterator, Mapping

from cil_func.config import Config, names
from cil_func.config.flat import flat
from cil_func.errors import CilError, OwnCodeError


def digests(config: Config) -> dict[str, str]:
    """Returns {file or module: the SHA-256 of its file when this process imported it} of all own functions of a run."""
    return {place: names.IMPORTED[place] for _, place in _places(config) if place in names.IMPORTED}


def changed(known: Mapping[str, str]) -> list[str]:
    """Returns the files or modules that are there and have another content. known: from `digests`, of earlier."""
    return [place for place, digest in known.items() if names.digest(place) not in ("", digest)]


def explain(error: BaseException, config: Config) -> OwnCodeError | None:
    """Returns an error of one line if `error` was raised in the run's own code, or in what that called.

    Returns None for a CilError, which is one line already, and if no line of an own file, or of one beside it, is
    behind it.
    """
    if isinstance(error, CilError) or not isinstance(error, Exception):
        return None
    file, _ = names.own_line(error)
    main = getattr(sys.modules.get("__main__"), "__file__", None) or ""
    if not file or os.path.abspath(file) == os.path.abspath(main):
        return None
    for key, place in _places(config):
        source = names.source(place)
        if source and os.path.dirname(os.path.abspath(file)).startswith(os.path.dirname(source)):
            return OwnCodeError(f"{key}: {place} failed; {names.in_a_line(error, place)}")
    return None


def _places(config: Config) -> Iterator[tuple[str, str]]:
    """Yields (key, file or module) of each function of the user's own that a configuration names."""
    for key, value in flat(config).items():
        named = key.endswith((".name", ".backbone")) and ".options." not in key
        if named and isinstance(value, str) and names.is_own(value):
            yield key, value.rpartition(":")[0]
