"""Lets saves of a checkpoint fail in their middle, in every possible place, on copies of a folder of checkpoints.

For `benchmarks.reliability` and, with small counts, for the tests. A case goes wrong if the earlier checkpoint is lost,
if the error is not the one that a person should get, or if the next save doesn't repair everything.

The functions share these parameters. folder: with checkpoints; it isn't changed unless that is said. new: the
checkpoint to save. scratch: a folder for the copies, which doesn't exist yet. save, load: `checkpoints.save` and
`checkpoints.newest`, or what is tested in their place. The save after the failure is always `checkpoints.save`.
"""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.reliability_helpers.damage import Tally, same
from benchmarks.reliability_helpers.faulty_disk import Crash, Disk
from cil_func.errors import CheckpointError, DiskError
from cil_func.runs import checkpoints, files
from cil_func.runs.checkpoints import Loaded
from cil_func.runs.packing import describe_part, pack_manifest

AFTERMATHS = ("killed", "unsynced bytes lost", "unsynced bytes and names lost")
SMALL = 64 << 20  # bytes of a file system that may be filled


def crash_at_every_call(
    folder: Path, new: Loaded, *, scratch: Path, save: Callable = checkpoints.save, load: Callable = checkpoints.newest
) -> Tally:
    """Saves `new`, and ends the process before, half way through and after each call of the save.

    Each case is judged in three aftermaths: nothing that was handed to the system is lost; bytes that were not synced
    are lost; names that were not synced are lost as well.
    """
    tried, failures, judge = 0, [], _Judge(folder, new, load)
    for where, copy, disk, raised in _attempts(folder, new, scratch, save):
        for aftermath in AFTERMATHS:
            if aftermath != "killed":
                disk.power_cut(names=aftermath.endswith("names lost"))
            problem = judge(copy, saved=not disk.happened)
            if disk.happened != isinstance(raised, Crash):
                problem = f"raised {raised!r}"
            tried += 1
            failures += [f"{where}, {aftermath}: {problem}"] if problem else []
    return Tally(tried, failures)


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
    """Saves `new`, and lets each call of the save raise `error`, before, half way through and after it.

    lasting: whether all later calls raise it too. A save that meets an OSError has to raise DiskError or to be
    complete. Any other error has to be raised as it is. If the new checkpoint isn't there then, the folder has to be as
    it was, except with `lasting`, since then nothing can be deleted.
    """
    tried, failures, judge = 0, [], _Judge(folder, new, load)
    for where, copy, disk, raised in _attempts(folder, new, scratch, save, error=error, lasting=lasting):
        problem = judge(copy, saved=raised is None, as_it_was=not lasting)
        if isinstance(error, OSError):
            expected = raised is None or isinstance(raised, DiskError)
        else:
            expected = raised is (error if disk.happened else None)
        if not expected:
            problem = f"raised {raised!r}"
        tried += 1
        failures += [f"{where}, {error!r}: {problem}"] if problem else []
    return Tally(tried, failures)


def disk_full(
    folder: Path,
    new: Loaded,
    count: int,
    *,
    scratch: Path,
    save: Callable = checkpoints.save,
    load: Callable = checkpoints.newest,
) -> Tally:
    """Saves `new` with `count` different amounts of free space, from none to one byte too few.

    Each save has to raise DiskError and to leave the folder as it was, byte for byte.
    """
    with (disk := Disk(_copy(folder, scratch))).installed():
        save(disk.folder, new.tree, new.record, number=new.number)
    needed = disk.written
    used = sum(len(data) for data in _contents(folder).values())
    failures = []
    for case in range(count):
        room = (needed - 1) * case // max(count - 1, 1)
        copy = _copy(folder, scratch)
        with Disk(copy, capacity=used + room).installed():
            raised = _outcome(save, copy, new)
        problem = _refused(raised, _contents(folder), copy) or _unrepaired(copy, new, load)
        failures += [f"{room} bytes left: {problem}"] if problem else []
    return Tally(count, failures)


def disk_really_full(folder: Path, new: Loaded, count: int, *, save: Callable = checkpoints.save) -> Tally:
    """Does what `disk_full` does, in the folder itself, by filling the small file system that it is on.

    Raises ValueError if the file system isn't small, so that no real disk is filled.
    """
    parts = [describe_part({key: part}, number=new.number) for key, part in new.tree.items()]
    needed = sum(part.size for part in parts) + len(pack_manifest(parts, new.record, number=new.number))
    before = _contents(folder)
    ballast, failures = folder.parent / "ballast", []
    for case in range(count):
        system = os.statvfs(folder)
        free, room = system.f_bavail * system.f_bsize, (needed - 1) * case // max(count - 1, 1)
        if not needed < free < SMALL:
            raise ValueError(f"disk_really_full: {free} bytes are free; between {needed} and {SMALL} fit")
        ballast.write_bytes(bytes(free - room))  # the file system rounds the rest down to whole blocks
        raised = _outcome(save, folder, new)
        ballast.unlink()
        problem = _refused(raised, before, folder)
        failures += [f"{room} bytes left: {problem}"] if problem else []
    return Tally(count, failures)


class _Judge:
    """Tells what is wrong with a copy of a folder in which `new` was being saved. Judges each content only once."""

    def __init__(self, folder: Path, new: Loaded, load: Callable):
        self._before, self._contents, self._new, self._load = load(folder)[0], _contents(folder), new, load
        self._known: dict[tuple, str] = {}

    def __call__(self, copy: Path, *, saved: bool, as_it_was: bool = False) -> str:
        """Returns what is wrong, "" for nothing. Changes the copy, by saving again.

        saved: whether the save was complete. as_it_was: whether a save that failed has to leave the folder unchanged.
        """
        case = (saved, frozenset(_contents(copy).items()))
        if case not in self._known:
            self._known[case] = self._lost(copy, saved, as_it_was) or _unrepaired(copy, self._new, self._load)
        return self._known[case]

    def _lost(self, copy: Path, saved: bool, as_it_was: bool) -> str:
        """Returns "" if nothing is lost: the newest checkpoint is the new one or, if it isn't saved, the one before."""
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


def _unrepaired(copy: Path, new: Loaded, load: Callable) -> str:
    """Returns what is still wrong after the next start, which saves `new` again; "" for nothing."""
    files.remove_temporary_files(copy)
    try:
        with Disk(copy).installed():  # without a fault; it only avoids waiting for a real disk
            checkpoints.save(copy, new.tree, new.record, number=new.number)
        found, problems = load(copy)
    except Exception as error:
        return f"the next save, or loading it: {error!r}"
    if not same(found, new) or problems:
        return f"the next save was not loaded: {problems}"
    return f"{_temporary(copy)[0]} is left" if _temporary(copy) else ""


def _refused(raised: BaseException | None, before: dict[str, bytes], folder: Path) -> str:
    """Returns "" if a save raised DiskError and left the folder as it was `before`, else what is wrong."""
    return _changed(before, folder) if isinstance(raised, DiskError) else f"raised {raised!r}"


def _changed(before: dict[str, bytes], folder: Path) -> str:
    """Returns how a folder differs from what it was `before`; "" if it doesn't."""
    after = _contents(folder)
    return "" if before == after else f"the folder changed: {sorted(before)} became {sorted(after)}"


def _attempts(
    folder: Path, new: Loaded, scratch: Path, save: Callable, **fault
) -> Iterator[tuple[str, Path, Disk, BaseException | None]]:
    """Yields (where, the copy, its disk, what the save raised) for a fault before, half way through and after a call.

    Every call has its turn. In the last attempt of each kind the fault would come after all calls, so nothing happens.
    """
    for when in ("before", "half", "after"):
        for at in itertools.count():
            copy = _copy(folder, scratch)
            disk = Disk(copy, at=at, when=when, **fault)
            with disk.installed():
                raised = _outcome(save, copy, new)
            through = at >= disk.calls
            if disk.happened or through:  # a call that writes nothing has no half, and is left out
                yield f"{when} call {at}", copy, disk, raised
            if through:
                break


def _outcome(save: Callable, folder: Path, new: Loaded) -> BaseException | None:
    """Returns what a save raises, None for nothing."""
    try:
        save(folder, new.tree, new.record, number=new.number)
    except BaseException as error:
        return error
    return None


def _copy(folder: Path, scratch: Path) -> Path:
    scratch.mkdir(parents=True, exist_ok=True)  # the same folder for all cases, since making folders is slow
    for path in scratch.iterdir():
        path.unlink()
    return shutil.copytree(folder, scratch, dirs_exist_ok=True)


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _temporary(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]
