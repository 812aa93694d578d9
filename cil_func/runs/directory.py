"""The run directory: one process works in it at a time, and the same command finds there what it goes on with."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cil_func import config as configuration
from cil_func.config import Config
from cil_func.config.messages import shown
from cil_func.errors import ConfigError, InUseError
from cil_func.parallel.processes import Processes
from cil_func.runs import checkpoints, lock, status
from cil_func.runs.environment import resolve
from cil_func.runs.packing import Loaded

_MISTAKES = {errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP}  # in what --out says
MARKS = ("checkpoints", "metrics.jsonl", "results.json", "model.safetensors")  # of a run


class FoundRun(NamedTuple):
    """What a run starts with: its resolved configuration; whether it is finished already; a checkpoint, if there is
    one, and what was wrong with newer ones. moved_from: the data.path of the run in the directory, if the
    configuration names another one and nothing else differs; "" otherwise."""

    config: Config
    finished: bool = False
    checkpoint: Loaded | None = None
    problems: tuple[str, ...] = ()
    moved_from: str = ""


@contextmanager
def claim_directory(directory: Path, processes: Processes) -> Iterator[None]:
    """The run directory, made and locked by the first process."""
    if processes.first:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno in _MISTAKES:
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
    else:
        yield


def _refuse_unlocked(directory: Path) -> None:
    """Raises InUseError if a process works in the directory though its lock is free: somebody deleted the lock's file,
    or the file system has no locks."""
    record = status.read(directory)
    if record.get("state") == "running" and record.get("pid") != os.getpid() and status.lives(record):
        raise InUseError(
            f"{directory} is in use: {status.describe(record)}, and that process lives; wait for it, or choose another "
            "--out"
        )


def read_directory(config: Config, directory: Path, processes: Processes, *, on_owned: Callable[[], None]) -> FoundRun:
    """What the first process finds in the directory, on all of them: other machines may not see its disk.

    on_owned() is called once it is known that the directory holds this run, unfinished, or none; not for a run whose
    data.path differs, since only the images show whether it is this one.
    """
    if not processes.first:
        head = json.loads(processes.broadcast_bytes(b""))
        if not (head["finished"] or head["moved_from"]):
            on_owned()
        config = configuration.from_dict(head["config"])
        pieces = list(iter(lambda: processes.broadcast_bytes(b""), b""))
        found = checkpoints.unpack(pieces) if pieces else None
        return FoundRun(config, head["finished"], found, tuple(head["problems"]), head["moved_from"])
    with processes.activity.long_work("reading the run directory"):
        begun = _look(config, directory, on_owned)
    if processes.size > 1:
        head, found = begun._asdict() | {"config": configuration.to_dict(begun.config)}, begun.checkpoint
        del head["checkpoint"]
        processes.broadcast_bytes(json.dumps(head).encode())
        for piece in checkpoints.read_pieces(directory / "checkpoints", found.number) if found else ():
            processes.broadcast_bytes(piece)
        processes.broadcast_bytes(b"")  # the end
    return begun


def _look(config: Config, directory: Path, on_owned: Callable[[], None]) -> FoundRun:
    """What the directory holds; raises ConfigError where that is another run."""
    stored = refuse_another_run(config, directory)
    if stored is None:
        on_owned()
        return FoundRun(resolve(config))
    moved_from = stored.data.path if stored.data.path != config.data.path else ""
    if moved_from:
        stored = stored.model_copy(update={"data": stored.data.model_copy(update={"path": config.data.path})})
    record, has_results = status.read(directory), (directory / "results.json").exists()
    if record.get("state") == "finished" and has_results:
        return FoundRun(stored, finished=True, moved_from=moved_from)
    if not moved_from:
        on_owned()
    found, problems = checkpoints.newest(directory / "checkpoints")
    if record.get("state") == "running":  # the lock is on_owned, so nobody runs
        problems.append(f"the run was killed before it could say why: {status.describe(record)}")
    if has_results and not found:
        problems.append(f"{directory / 'checkpoints'} holds no checkpoint, so the run begins anew")
    return FoundRun(resolve(stored), checkpoint=found, problems=tuple(problems), moved_from=moved_from)


def refuse_another_run(config: Config, directory: Path) -> Config | None:
    """Reads the configuration of the run in a directory; None where there is no run.

    Raises ConfigError if another key than data.path differs from `config`, or if config.toml is missing and other files
    of a run are there.
    """
    if not (directory / "config.toml").exists():
        held = [name for name in MARKS if (directory / name).exists()]
        if held:
            raise ConfigError(
                f"{directory} holds {held[0]} and no config.toml, so nobody knows of which run; choose another --out"
            )
        return None
    stored = configuration.load(str(directory / "config.toml"))
    differing = _differences(config, stored)
    if set(differing) - {"data.path"}:
        told = ", ".join(differing.values())
        raise ConfigError(f"{directory} holds a run of another configuration: {told}; give the same, or another --out")
    return stored


def _differences(wanted: Config, stored: Config) -> dict[str, str]:
    """The keys that differ, each with both values in words; "auto" fits whatever it became."""
    new, old = (dict(_flat(configuration.to_dict(config))) for config in (wanted, stored))
    resolved = {key for key in ("run.device", "run.precision", "data.increment") if new[key] == "auto"}
    if "data.increment" in resolved and not wanted.data.initial_increment:
        resolved.add("data.initial_increment")
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key) and key not in resolved]
    return {key: f"{key} is {_told(old, key)} there and {_told(new, key)} here" for key in keys}


def _flat(tables: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _told(values: dict[str, Any], key: str) -> str:
    return shown(values[key]) if key in values else "not set"
