"""Claims a run directory for this run, and finds out whether it is new or holds a run, finished or to go on with."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cil_func import config as configuration
from cil_func.config import Config
from cil_func.config.flat import flat
from cil_func.config.messages import shown
from cil_func.errors import CheckpointError, ConfigError, InUseError
from cil_func.parallel.launch import Launch
from cil_func.parallel.processes import Processes
from cil_func.runs import checkpoints, files, lock, moved_parent, own_code, status
from cil_func.runs.environment import resolve
from cil_func.runs.packing import Loaded

_WRONG_NAMES = {errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP}  # mistakes in --out
MARKS = ("checkpoints", "metrics.jsonl", "results.json", "model.safetensors")  # files by which a run is recognised
_OF_MACHINE = ("workers", "packed")  # keys of [data] that may differ when a run goes on


class FoundRun(NamedTuple):
    """What `read_directory` has found.

    config: the configuration of the run, with device and precision resolved. Of a run that is finished or has a
    checkpoint it is the stored one, with the data.path and run.extends that the command gives. If it isn't finished, it
    also has the command's run.threads unless that is 0, and its run.device unless that is "auto": then the
    checkpoint's. Of another one, which begins anew, it is the command's.
    finished: whether the run in the directory is finished; then no checkpoint is loaded.
    checkpoint: the newest valid one, from which the run goes on; None if there is none, as in a new directory.
    problems: what was wrong with newer checkpoints or the last attempt, one line each.
    moved_from: the data.path of the run in the directory if the command gives another one; "" if it is the same, or if
    the directory is new.
    """

    config: Config
    finished: bool = False
    checkpoint: Loaded | None = None
    problems: tuple[str, ...] = ()
    moved_from: str = ""


@contextmanager
def claim_directory(directory: Path, processes: Processes) -> Iterator[None]:
    """Returns a context manager: only this run may write into the run directory during its block.

    directory: made, with the folders above it, if it is missing. processes: those of this run. Rank 0 makes the
    directory, locks it, and deletes temporary files of killed processes. Other processes do nothing.
    Raises InUseError if another process works in the directory. Raises ConfigError if it can't have this name. Raises
    what `lock.lock_directory` raises.
    """
    if not processes.first:
        yield
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _WRONG_NAMES:
            raise ConfigError(f"--out {directory}: can't be made ({error.strerror})") from error
        raise
    with ExitStack() as stack:
        record = status.read(directory)
        try:
            stack.enter_context(lock.lock_directory(directory))
        except InUseError as error:
            raise InUseError(f"{error} ({status.describe(record)})" if record else str(error)) from error
        _refuse_unlocked(directory)
        checkpoints.clean(directory)
        yield


def _refuse_unlocked(directory: Path) -> None:
    """Raises InUseError if status.json names another process that is alive, although this process has got the lock.

    That happens if somebody has deleted the lock's file, and on file systems without locks.
    """
    record = status.read(directory)
    if record.get("state") == "running" and record.get("pid") != os.getpid() and status.lives(record):
        raise InUseError(
            f"{directory} is in use: {status.describe(record)}, and that process is alive; wait for it, or choose "
            "another --out"
        )


def read_directory(config: Config, directory: Path, processes: Processes, *, on_owned: Callable[[], None]) -> FoundRun:
    """Finds out whether the run directory is new, holds a finished run, or one to go on with.

    config: the configuration that the command asks for. directory: already claimed, see `claim_directory`.
    processes: those of this run, all of which call this. Only rank 0 reads, since other machines may not see its disk;
    it sends the checkpoint to the others.
    on_owned: called, in each process, once it is known that this run may write into the directory: it is new, or holds
    this run, not finished. It is not called if data.path differs, since only the images show whether it is the same
    run.
    Returns FoundRun, the same in all processes.
    Raises ConfigError if the directory holds a run of another configuration. Raises CheckpointError if there are
    checkpoints and none is valid.
    """
    if not processes.first:
        head = json.loads(processes.broadcast_bytes(b""))
        if not (head["finished"] or head["moved_from"]):
            on_owned()
        config = configuration.from_dict(head["config"])
        pieces = list(iter(lambda: processes.broadcast_bytes(b""), b""))
        loaded = checkpoints.unpack(pieces) if pieces else None
        return FoundRun(config, head["finished"], loaded, tuple(head["problems"]), head["moved_from"])
    with processes.activity.long_work("reading the run directory"):
        found = _read(config, directory, processes.launch, on_owned)
    if processes.size > 1:
        head, loaded = found._asdict() | {"config": configuration.to_dict(found.config)}, found.checkpoint
        del head["checkpoint"]
        processes.broadcast_bytes(json.dumps(head).encode())
        for piece in checkpoints.read_pieces(directory / "checkpoints", loaded.number) if loaded else ():
            processes.broadcast_bytes(piece)
        processes.broadcast_bytes(b"")  # marks the end
    return found


def _read(config: Config, directory: Path, launch: Launch, on_owned: Callable[[], None]) -> FoundRun:
    """Does the work of `read_directory` in the process that reads: same arguments, result and errors."""
    stored = refuse_another_run(config, directory)
    if stored is None:
        on_owned()
        return FoundRun(resolve(config, launch))
    moved_from = stored.data.path if stored.data.path != config.data.path else ""
    stored = found_here(stored, config)
    record, has_results = status.read(directory), _has_results(directory)
    if record.get("state") == "finished" and has_results:
        return FoundRun(stored, finished=True, moved_from=moved_from)
    if record.get("state") == "finished" and not (_lacks_model(directory) or _has_checkpoint(directory)):
        raise CheckpointError(
            f"{directory}: the run is finished, its results.json is gone or damaged, and no checkpoint is there to "
            "write it again from; put it back from a copy, or choose another --out"
        )
    if not moved_from:
        on_owned()
    loaded, problems = checkpoints.newest(directory / "checkpoints")
    if record.get("state") == "running":  # and yet this process has the lock
        problems.append(f"the run was killed before it could say why: {status.describe(record)}")
    if not loaded:  # an "auto" may mean something else by now, as after classes were added
        if has_results:
            problems.append(f"{directory / 'checkpoints'} holds no checkpoint, so the run begins anew")
        return FoundRun(resolve(config, launch), problems=tuple(problems), moved_from=moved_from)
    problems += [
        f"{place} has changed since this run began; what is left is trained by it as it is now"
        for place in own_code.changed(loaded.record.get("own_code", {}))
    ]
    before = loaded.record.get("device", stored.run.device)
    device = before if config.run.device == "auto" else config.run.device
    if device != before:
        problems.append(f"trained on {before} so far, from now on {device}: the results are those of neither alone")
    run = {"device": device, "threads": config.run.threads or stored.run.threads}
    stored = stored.model_copy(update={"run": stored.run.model_copy(update=run)})
    resolved = resolve(stored, launch, way_out=f"--set run.device=cpu --out {directory} goes on without one")
    return FoundRun(resolved, checkpoint=loaded, problems=tuple(problems), moved_from=moved_from)


def found_here(stored: Config, config: Config) -> Config:
    """Returns a run's configuration with what may differ where it is now: the places, and how images are read.

    stored: of the run. config: the command's.
    """
    here = {key: getattr(config.data, key) for key in ("path", *_OF_MACHINE)}
    return stored.model_copy(update={
        "data": stored.data.model_copy(update=here),
        "run": stored.run.model_copy(update={"extends": config.run.extends}),
    })  # fmt: skip


def _has_results(directory: Path) -> bool:
    """Returns whether results.json is there and whole. A broken one is written again when the run goes on."""
    return bool(files.read_object(directory / "results.json"))


def lost_model(directory: Path) -> str:
    """Returns a line, with the way out, if one of the two files of a finished run's model is missing; else ""."""
    if not _lacks_model(directory):
        return ""
    again = "delete its results.json too, and the same command writes both again from the last checkpoint"
    way_out = again if _has_checkpoint(directory) else "so are its checkpoints; another --out trains it again"
    return f"warning: its model is gone; {way_out}"


def _lacks_model(directory: Path) -> bool:
    return not all((directory / name).exists() for name in ("model.safetensors", "model.json"))


def _has_checkpoint(directory: Path) -> bool:
    """Returns whether there is a checkpoint, valid or not."""
    return any((directory / "checkpoints").glob("*.json"))


def refuse_another_run(
    config: Config, directory: Path, *, where: str = "--out", of_many: bool = False
) -> Config | None:
    """Returns the configuration of the run in a directory; None if there is no run.

    config: the configuration that the command asks for. directory: the run directory, which may be missing.
    where: what the command calls the argument that names it, for messages. of_many: whether it is one of several that
    the command is about, of which some may have been trained elsewhere.
    Raises ConfigError if the two differ in another key than data.path, run.threads, run.extends if that run was moved,
    and run.device if the run is not finished or one of many. An "auto" in `config` doesn't differ from what it became
    in the run. Raises ConfigError if config.toml is missing and other files of a run are there.
    """
    if not (directory / "config.toml").exists():
        marks = [name for name in MARKS if (directory / name).exists()]
        if marks:
            raise ConfigError(
                f"{directory} holds {marks[0]} and no config.toml, so it is unknown which run that is; "
                f"choose another {where}"
            )
        return None
    stored = configuration.of_run(directory)
    differing = _differences(config, stored)
    differing.pop("run.threads", None)
    if "run.extends" in differing and moved_parent.is_same(directory, config):
        del differing["run.extends"]
    if of_many or status.read(directory).get("state") != "finished":
        differing.pop("run.device", None)
    if set(differing) - {"data.path"}:
        lines = ", ".join(differing.values())
        raise ConfigError(
            f"{directory} holds a run of another configuration: {lines}; give the same, or another {where}"
        )
    return stored


def _differences(wanted: Config, stored: Config) -> dict[str, str]:
    """Returns {dotted key: "KEY is VALUE there and VALUE here"} of the keys in which two configurations differ.

    wanted: the command's, "here". stored: the run's, "there". An "auto" of `wanted` is not different from what it
    became, and _OF_MACHINE is left out.
    """
    new, old = flat(wanted), flat(stored)
    given_auto = ("run.device", "run.precision", "data.increment", "data.storage")
    resolved = {f"data.{key}" for key in _OF_MACHINE} | {key for key in given_auto if new[key] == "auto"}
    if "data.increment" in resolved and not wanted.data.initial_increment:
        resolved.add("data.initial_increment")
    if wanted.model.weights:  # what isn't set has become the pretrained model's own
        resolved |= {key for key in ("data.image_size", "data.mean", "data.std") if not new[key]}
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key) and key not in resolved]
    return {key: f"{key} is {_text_of(old, key)} there and {_text_of(new, key)} here" for key in keys}


def _text_of(values: dict[str, Any], key: str) -> str:
    return shown(values[key]) if key in values else "not set"
