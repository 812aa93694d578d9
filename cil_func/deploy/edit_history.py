"""The edits that a model has gone through, as model.json's lineage lists them, and the names that classes have had."""

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from cil_func.runs import files

NameOf = Callable[[str], str]  # from a class's name in one place to its name in another
_APART = "\0"  # in the name of a class that has none in a model; no folder can have it, and no argument of a command


def edits(description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the edits that a model has gone through since it was trained, the oldest first; [] without any.

    description: the content of model.json. An edit has "dropped", a list of names, "renamed", {old name: new name},
    "unlearned", which is false, and "parent": {"run", "sha256"}, the directory and the SHA-256 of the model before it.
    """
    return list((description.get("lineage") or {}).get("edits", []))


def all_edits(description: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the edits of a model, behind those of the runs that its run has extended, the oldest first."""
    return [*(description.get("lineage") or {}).get("parent_edits", []), *edits(description)]


def with_edit(
    description: Mapping[str, Any], *, run: str, dropped: Sequence[str], renamed: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the "lineage" of a model that is edited: all that there was, and one edit more.

    description: the content of the model.json before. run: the directory of that model. dropped, renamed: the change.
    """
    edit = {
        "parent": {"run": run, "sha256": description["sha256"]},
        "dropped": list(dropped),
        "renamed": dict(renamed),
        "unlearned": False,  # the features of the other classes were learned with the dropped ones' images
    }
    return {**(description.get("lineage") or {}), "edits": [*edits(description), edit]}


def renames(description: Mapping[str, Any]) -> NameOf:
    """Returns the function from the name that a class had in the run's data to the one that it has in this model.

    The run's data are those of the classes that it has brought itself: edits of the runs that it extends came before.
    A class that the model hasn't, since it was dropped, gets a name that no class has; `plain` makes it readable.
    """
    return _applied(edits(description))


def renames_since(old: Mapping[str, Any], new: Mapping[str, Any]) -> NameOf:
    """Returns the function from the name that a class has in an older model to the one that it has in a newer one.

    old, new: the contents of model.json. Edits that the older model has gone through too don't count. Those of a run
    that the newer one extends do. If both come from one model, the older one's own later edits are taken back.
    A class that the newer one hasn't, since it was dropped or its name belongs to another class there, gets a name as
    in `renames`.
    """
    before, after = all_edits(old), all_edits(new)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
    if not _line(old) & _line(new):  # trained apart: equal names are all that is known
        return _applied(after[common:])
    return _applied([_exact(edit) for edit in (*map(_undone, before[common:][::-1]), *after[common:])])


def plain(name: str) -> str:
    """Returns the name that a person knows a class by, of one that the functions here have given."""
    return name.split(_APART)[0]


def after(first: NameOf, second: NameOf) -> NameOf:
    """Returns name -> second(first(name))."""
    return lambda name: second(first(name))


def described(directory: Path) -> dict[str, Any]:
    """Returns the content of a run's model.json; {} if it can't be read, as of a run that isn't there any more."""
    return files.read_object(directory / "model.json")


def _line(description: Mapping[str, Any]) -> set[str]:
    """Returns the SHA-256 of a model and of all that it comes from, as far as the runs that were extended are there."""
    parent = (description.get("lineage") or {}).get("parent") or {}
    named = [description, parent, *(edit["parent"] for edit in all_edits(description))]
    before = described(Path(parent["run"])) if parent else {}
    still_there = before and before.get("sha256") == parent["sha256"]
    return {each["sha256"] for each in named if "sha256" in each} | (_line(before) if still_there else set())


def _undone(edit: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the edit that takes an edit back."""
    renamed = {name: was for was, name in edit["renamed"].items()}
    return {**edit, "dropped": [], "renamed": renamed | {_apart(name, edit): name for name in edit["dropped"]}}


def _exact(edit: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an edit that also sets apart who has a name that it gives to another class.

    The name was free in the model that was edited, so that this is a class of another model.
    """
    given = set(edit["renamed"].values()) - edit["renamed"].keys()
    return {**edit, "dropped": {*edit["dropped"], *given}}


def _apart(name: str, edit: Mapping[str, Any]) -> str:
    """Returns the name of a class that an edit has dropped, which no other class has."""
    return name + _APART + edit["parent"]["sha256"]


def _applied(found: Sequence[Mapping[str, Any]]) -> NameOf:
    def name_of(name: str) -> str:
        for edit in found:
            name = _apart(name, edit) if name in edit["dropped"] else edit["renamed"].get(name, name)
        return name

    return name_of
