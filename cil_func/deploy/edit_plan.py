"""What an edit does to the classes of a model, checked: which rows go, and what the others are called."""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from cil_func.config.messages import nearest, shown
from cil_func.errors import ConfigError


class Plan(NamedTuple):
    """What an edit does.

    dropped: the names of the classes that go. rows: their rows. renamed: {old name: new name}. names: of the classes
    that stay, by their new rows.
    """

    dropped: tuple[str, ...]
    rows: tuple[int, ...]
    renamed: dict[str, str]
    names: tuple[str, ...]

    @property
    def named(self) -> dict[int, str]:
        """{row before the edit: name after it} of the classes that stay, in order."""
        kept = [row for row in range(len(self.names) + len(self.rows)) if row not in self.rows]
        return dict(zip(kept, self.names, strict=True))


def plan(class_names: Sequence[str], drop: Sequence[str], rename: Sequence[str]) -> Plan:
    """Returns the Plan of an edit.

    class_names: of the model, by row. drop: names of classes. rename: texts OLD=NEW, all done at once, so that two
    classes may exchange their names.
    Raises ConfigError, one line, if nothing is to be done, for a class that isn't there, is named twice or gets a name
    that another class has, and if no class would be left.
    """
    drop, known = [_normal(name) for name in drop], list(class_names)
    if not drop and not rename:
        raise ConfigError("nothing to do; give --drop CLASS or --rename OLD=NEW")
    for name in drop:
        _check_known(name, known, f"--drop {shown(name)}")
    renamed: dict[str, str] = {}
    for text in rename:
        old, new = _split(_normal(text), known)
        if old in renamed:
            raise ConfigError(f"--rename {shown(text)}: {shown(old)} gets two names; give one")
        renamed[old] = new
    both = [name for name in renamed if name in drop]
    twice = [name for at, name in enumerate(drop) if name in drop[:at]]
    if both or twice:
        what = f"--rename {shown(both[0])}: it is dropped too" if both else f"--drop {shown(twice[0])}: given twice"
        raise ConfigError(f"{what}; say once what becomes of it")
    rows = tuple(row for row, name in enumerate(known) if name in drop)
    if len(rows) == len(known):
        raise ConfigError(f"--drop: no class of {len(known)} would be left; keep one")
    names = tuple(renamed.get(name, name) for name in known if name not in drop)
    for old, new in renamed.items():
        if names.count(new) > 1:
            raise ConfigError(f"--rename {shown(old)}: there is a class {shown(new)} already; choose another name")
    return Plan(tuple(known[row] for row in rows), rows, renamed, names)


def without_folder(names: Sequence[str]) -> list[str]:
    """Returns the names that no folder of images can have: those with a "/", and those that begin with a dot."""
    return [name for name in names if "/" in name or name.startswith(".")]


def _normal(text: str) -> str:
    """Returns a text in the form of names that were read from folders."""
    return unicodedata.normalize("NFC", text)


def _split(text: str, known: Sequence[str]) -> tuple[str, str]:
    """Returns (OLD, NEW) of a text OLD=NEW. A name may hold "=": the longest OLD that is a class is taken."""
    at = [place for place, letter in enumerate(text) if letter == "="]
    if not at:
        raise ConfigError(f'--rename {shown(text)}: no "="; write --rename OLD=NEW')
    place = next((place for place in reversed(at) if text[:place] in known), at[0])
    old, new = text[:place], text[place + 1 :]
    _check_known(old, known, f"--rename {shown(text)}")
    if not new.strip() or new == old:
        raise ConfigError(f"--rename {shown(text)}: no new name; write --rename OLD=NEW")
    return old, new


def _check_known(name: str, known: Sequence[str], flag: str) -> None:
    """Raises ConfigError, which begins with `flag`, if a name is no class; it names the nearest one."""
    if name in known:
        return
    near = nearest(name, known)
    some = ", ".join(shown(each) for each in known[:3]) + (f" and {len(known) - 3} more" if len(known) > 3 else "")
    hint = f"did you mean {shown(near)}?" if near else f"there are {some}"
    raise ConfigError(f"{flag}: {shown(name)} is no class of this model; {hint}")
