"""What failures in the middle of a save do checkpoints survive? Each function tries many cases on copies of a folder.

For the tests, with small counts, and for measurements of reliability. A case goes wrong where the earlier checkpoint
is lost, where the error is not the one that a person should get, or where the next save doesn't mend everything.
`save` and `load` are checkpoint.save and checkpoint.newest, or what is tried in their place; the next start saves by
checkpoint.save. `scratch` is a folder that isn't there yet.
"""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.damage import Tally, same
from benchmarks.faulty_disk import Crash, Disk
from cil_func.errors import CheckpointError, DiskError
from cil_func.runs import checkpoints, files
from cil_func.runs.checkpoints import Loaded
from cil_func.runs.packing import describe_part, pack_manifest

AFTERMATHS = ("killed", "unsynced bytes lost", "unsynced bytes and names lost")
SMALL = 64 << 20  # bytes of a file system that may be filled


def crash_at_every_call(
    folder: Path, new: Loaded, *, scratch: Path, save: Callable = checkpoints.save, load: Callable = checkpoints.newest
) -> Tally:
    """Saves `new` beside the checkpoints in `folder`; the process ends before, half way through and after each call.

    Each time in three ways: all that was handed to the system is there; bytes that were not synced are lost; names too.
    """
    tried, missed, judge = 0, [], _Judge(folder, new, load)
    for where, copy, disk, raised in _attempts(folder, new, scratch, save):
        for aftermath in AFTERMATHS:
            if aftermath != "killed":
                disk.power_cut(names=aftermath.endswith("names lost"))
            problem = judge(copy, saved=not disk.happened)
            if disk.happened != isinstance(raised, Crash):
                problem = f"raised {raised!r}"
            tried += 1
            missed += [f"{where}, {aftermath}: {problem}"] if problem else []
    return Tally(tried, missed)


def fail_at_every_call(
    folder: Path,
    new: Loaded,
    error: BaseException,
    *,
    scratch: Path,
    lasting: bool = False,
    save: Callable = checkpoints.save,
    load: Callable = checkpoints.newest,
) -> Tally:
    """As `crash_at_every_call`, but the call raises `error`, or with `lasting` that call and all later ones.

    An OSError has to come out as DiskError, or the save to be complete; another error has to come out as it is. Where
    the new checkpoint isn't there then, the folder has to be as it was, unless nothing can be deleted (`lasting`).
    """
    tried, missed, judge = 0, [], _Judge(folder, new, load)
    for where, copy, disk, raised in _attempts(folder, new, scratch, save, error=error, lasting=lasting):
        problem = judge(copy, saved=raised is None, as_it_was=not lasting)
        if isinstance(error, OSError):
            expected = raised is None or isinstance(raised, DiskError)
        else:
            expected = raised is (error if disk.happened else None)
        if not expected:
            problem = f"raised {raised!r}"
        tried += 1
        missed += [f"{where}, {error!r}: {problem}"] if problem else []
    return Tally(tried, missed)


def disk_full(
    folder: Path,
    new: Loaded,
    count: int,
    *,
    scratch: Path,
    save: Callable = checkpoints.save,
    load: Callable = checkpoints.newest,
) -> Tally:
    """Saves `new` while `count` different amounts of space are left, from none to a byte too few.

    A full disk has to raise DiskError and leave the folder as it was, byte for byte.
    """
    with (disk := Disk(_copy(folder, scratch))).installed():
        save(disk.folder, new.tree, new.record, number=new.number)
    needed = disk.written
    used = sum(len(data) for data in _contents(folder).values())
    missed = []
    for case in range(count):
        room = (needed - 1) * case // max(count - 1, 1)
        copy = _copy(folder, scratch)
        with Disk(copy, capacity=used + room).installed():
            raised = _outcome(save, copy, new)
        problem = _refused(raised, _contents(folder), copy) or _unmended(copy, new, load)
        missed += [f"{room} bytes left: {problem}"] if problem else []
    return Tally(count, missed)


def disk_really_full(folder: Path, new: Loaded, count: int, *, save: Callable = checkpoints.save) -> Tally:
    """`disk_full` on the folder itself, which lies on a small file system of its own that is filled for each case.

    Raises ValueError where it isn't small, so that no real disk is filled.
    """
    parts = [describe_part({key: part}, number=new.number) for key, part in new.tree.items()]
    needed = sum(part.size for part in parts) + len(pack_manifest(parts, new.record, number=new.number))
    before = _contents(folder)
    ballast, missed = folder.parent / "ballast", []
    for case in range(count):
        system = os.statvfs(folder)
        free, room = system.f_bavail * system.f_bsize, (needed - 1) * case // max(count - 1, 1)
        if not needed < free < SMALL:
            raise ValueError(f"disk_really_full: {free} bytes are free; between {needed} and {SMALL} fit")
        ballast.write_bytes(bytes(free - room))  # the file system rounds what is left down to whole blocks
        raised = _outcome(save, folder, new)
        ballast.unlink()
        problem = _refused(raised, before, folder)
        missed += [f"{room} bytes left: {problem}"] if problem else []
    return Tally(count, missed)


class _Judge:
    """What is wrong with a copy of `folder` in which `new` was being saved: looked at once for each content."""

    def __init__(self, folder: Path, new: Loaded, load: Callable):
        self._before, self._contents, self._new, self._load = load(folder)[0], _contents(folder), new, load
        self._known: dict[tuple, str] = {}

    def __call__(self, copy: Path, *, saved: bool, as_it_was: bool = False) -> str:
        """"" for nothing. as_it_was: whether a save that failed may leave nothing; the copy is changed."""
        case = (saved, frozenset(_contents(copy).items()))
        if case not in self._known:
            self._known[case] = self._lost(copy, saved, as_it_was) or _unmended(copy, self._new, self._load)
        return self._known[case]

    def _lost(self, copy: Path, saved: bool, as_it_was: bool) -> str:
        """Whether the copy lost what was there: its newest has to be the one before or, if it is saved, the new one."""
        try:
            after = self._load(copy)[0]
        except CheckpointError as error:
            return str(error)
        new = same(after, self._new)
        if as_it_was and not new and _contents(copy) != self._contents:
            return _changed(self._contents, copy)
        if as_it_was and _temporary(copy):
            return f"{_temporary(copy)[0]} is left"
        if new or (same(after, self._before) and not saved):
            return ""
        return f"checkpoint {after and after.number} was found, with other contents" if after else "nothing was found"


def _unmended(copy: Path, new: Loaded, load: Callable) -> str:
    """What is still wrong after the next start, which saves `new`; "" for nothing."""
    files.remove_temporary_files(copy)
    try:
        with Disk(copy).installed():  # nothing fails, and nothing waits for a disk
            checkpoints.save(copy, new.tree, new.record, number=new.number)
        found, problems = load(copy)
    except Exception as error:
        return f"the next save, or loading it: {error!r}"
    if not same(found, new) or problems:
        return f"the next save was not loaded: {problems}"
    return f"{_temporary(copy)[0]} is left" if _temporary(copy) else ""


def _refused(raised: BaseException | None, before: dict[str, bytes], folder: Path) -> str:
    """What is wrong with a save that had to be refused; "" for a DiskError and a folder as it was `before`."""
    return _changed(before, folder) if isinstance(raised, DiskError) else f"raised {raised!r}"


def _changed(before: dict[str, bytes], folder: Path) -> str:
    """How the folder differs from what it was `before`; "" if it doesn't."""
    after = _contents(folder)
    return "" if before == after else f"the folder changed: {sorted(before)} became {sorted(after)}"


def _attempts(
    folder: Path, new: Loaded, scratch: Path, save: Callable, **fault
) -> Iterator[tuple[str, Path, Disk, BaseException | None]]:
    """(where, the copy, its disk, what the save raised) for a fault before, half way through and after each call.

    The last of each kind comes after all calls, and nothing happens.
    """
    for when in ("before", "half", "after"):
        for at in itertools.count():
            copy = _copy(folder, scratch)
            disk = Disk(copy, at=at, when=when, **fault)
            with disk.installed():
                raised = _outcome(save, copy, new)
            through = at >= disk.calls
            if disk.happened or through:  # not a call that writes nothing, which has no half
                yield f"{when} call {at}", copy, disk, raised
            if through:
                break


def _outcome(save: Callable, folder: Path, new: Loaded) -> BaseException | None:
    """What a save raises."""
    try:
        save(folder, new.tree, new.record, number=new.number)
    except BaseException as error:
        return error
    return None


def _copy(folder: Path, scratch: Path) -> Path:
    scratch.mkdir(parents=True, exist_ok=True)  # kept from case to case: making folders is slow
    for path in scratch.iterdir():
        path.unlink()
    return shutil.copytree(folder, scratch, dirs_exist_ok=True)


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _temporary(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]
