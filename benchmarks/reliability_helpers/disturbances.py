"""Disturbs real processes: kills and stops them, and puts NaN into their steps. Kinds of `benchmarks.reliability`.

Each kind takes the runs to disturb and a number of cases. It returns how many cases were tried and a line for each that
went wrong. In each case the same command goes on in the directory, and has to end with the bits of a run to which
nothing happened.
"""

import hashlib
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks import measure
from benchmarks.reliability_helpers.damage import Tally
from benchmarks.reliability_helpers.real_runs import (
    BORDERS,
    SYNCS,
    RealRuns,
    as_flags,
    difference,
    live_process,
    status,
)

SETTINGS_OF_FOLDERS = (  # of the run that is extended
    "data.image_size=8", "data.increment=2", "optim.epochs=2", "optim.batch_size=16", "memory.size=40",
    "run.compile=false", "run.threads=1", "run.device=cpu", "checkpoint.every_seconds=0.2",
)  # fmt: skip


def gather(tasks: list[Callable[[], str]], *, at_once: int) -> Tally:
    """Calls all tasks, `at_once` at a time. Returns how many there were and what went wrong.

    Each task returns "" or what went wrong. A task that raises has gone wrong too.
    """

    def outcome(task: Callable[[], str]) -> str:
        try:
            return task()
        except Exception as problem:  # the other tasks are still of use
            return f"{type(problem).__name__}: {problem}"

    with ThreadPoolExecutor(at_once) as pool:
        found = list(pool.map(outcome, tasks))
    return Tally(len(tasks), [text for text in found if text])


def kill(runs: RealRuns, count: int, *, syncs: int = 0) -> Tally:
    """SIGKILL at random moments; each third one at a random call inside a save."""
    _, seconds = runs.undisturbed(0)
    moments = [(runs.random.uniform(0.2, 0.95) * seconds, runs.random.randint(1, syncs or SYNCS)) for _ in range(count)]

    def one(number: int) -> str:
        moment, at = moments[number]
        if number % 3 == 0:
            directory, where = runs.new_directory(), f"killed in a save, call {at}"
            process = runs.start(directory, 0, fault={"what": "SIGKILL in a save", "at": at})
        else:
            where = f"killed after {moment:.2f} s"
            directory, process = runs.start_and_wait(0, moment)
            process.kill()
        process.communicate()
        problem = "" if process.returncode == -signal.SIGKILL else f"it ended by itself, with {process.returncode}"
        problem = problem or runs.resume_and_compare(directory, 0)
        return problem and f"{where}: {problem}"

    return gather([partial(one, number) for number in range(count)], at_once=2)


def kill_of_an_extension(runs: RealRuns, count: int) -> Tally:
    """SIGKILL while classes are added to a finished run (--extend): that run keeps every byte."""
    parent = runs.new_directory()
    images = parent.parent / "images"
    measure.write_images(images / "old", classes=6, train=60, test=10, size=8, seed=runs.random.randrange(1 << 30))
    for split in ("train", "test"):
        (images / "new" / split).mkdir(parents=True)
        for label in (4, 5):
            os.rename(images / "old" / split / f"class{label:03d}", images / "new" / split / f"class{label:03d}")
    settings = as_flags([*SETTINGS_OF_FOLDERS, f"data.path={images / 'old'}"])
    done = RealRuns(runs.folder, 0, ["--config", "folder", *settings]).run_to_end(parent, 0)
    if done.returncode:
        return Tally(count, [f"the run to extend failed: {done.stderr}"])
    before = _contents(parent)
    added = ["--extend", str(parent), *as_flags([f"data.path={images / 'new'}"])]
    tally = kill(RealRuns(parent.parent / "extended", runs.random.randrange(1 << 30), added), count, syncs=20)
    return tally if _contents(parent) == before else Tally(tally.tried, [*tally.failures, "the old run has changed"])


def _contents(directory: Path) -> dict[str, tuple[str, int]]:
    """Returns {path: (SHA-256, time of the last change)} of all files below a directory."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files}


def kill_of_two(runs: RealRuns, count: int) -> Tally:
    """One of two processes is killed at a random border: both are gone, and the same command goes on."""
    runs.undisturbed(2)

    def one(rank: int, at: int) -> str:
        directory = runs.new_directory()
        runs.run_to_end(directory, 2, fault={"what": "SIGKILL", "rank": rank, "at": at})
        record = status(directory)
        problem = "" if f"rank {rank} (" in record["message"] else f"status.json says {record}"
        problem = problem or runs.resume_and_compare(directory, 2)
        return problem and f"rank {rank} at border {at}: {problem}"

    cases = [(number % 2, runs.random.randint(1, BORDERS)) for number in range(count)]
    return gather([partial(one, *case) for case in cases], at_once=1)


def restart(runs: RealRuns, count: int) -> Tally:
    """A random one of two processes is killed, and the launcher starts both again (--max-restarts 3)."""
    runs.undisturbed(2)

    def one(rank: int, at: int) -> str:
        directory = runs.new_directory()
        once = str(directory.parent / "once")
        fault = {"what": "SIGKILL", "rank": rank, "at": at, "once": once}
        done = runs.run_to_end(directory, 2, fault=fault, flags=("--max_restarts=3",))
        problem = f"status {done.returncode}" if done.returncode else difference(directory, runs.undisturbed(2)[0])
        problem = problem or ("" if Path(once).exists() else "nothing was killed")
        return problem and f"rank {rank} at border {at}: {problem}"

    cases = [(number % 2, runs.random.randint(1, BORDERS)) for number in range(count)]
    return gather([partial(one, *case) for case in cases], at_once=1)


def every_step(runs: RealRuns, _: int) -> Tally:
    """Stopped by SIGTERM at every border of the run, and gone on with."""
    runs.undisturbed(0)

    def one(at: int) -> str:
        directory = runs.new_directory()
        done = runs.run_to_end(directory, 0, fault={"what": "SIGTERM", "at": at})
        problem = "" if done.returncode == 143 else f"status {done.returncode}"
        problem = problem or runs.resume_and_compare(directory, 0)
        return problem and f"border {at}: {problem}"

    return gather([partial(one, at) for at in range(1, BORDERS + 1)], at_once=2)


def sigterm(runs: RealRuns, count: int) -> Tally:
    """SIGTERM to two processes at random moments: to the launcher, or to a random one of them alone."""
    _, seconds = runs.undisturbed(2)  # with the start of the processes

    def one(number: int, share: float, at: int) -> str:
        if number % 2:
            directory = runs.new_directory()
            once = directory.parent / "once"
            fault = {"what": "SIGTERM", "rank": at % 2, "at": at, "once": str(once)}
            process, where = runs.start(directory, 2, fault=fault), f"rank {at % 2} at border {at}"
            process.wait(timeout=200)
            clock = once.stat().st_mtime
        else:
            where = f"the launcher after {share * seconds:.1f} s"
            directory, process = runs.start_and_wait(2, share * seconds)
            clock = time.time()
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=200)
        gone = time.time() - clock
        problem = f"gone after {gone:.1f} s" if gone > 10 else live_process(directory)
        problem = problem or _not_stopped(directory, clock) or runs.resume_and_compare(directory, 2)
        return problem and f"{where}: {problem}"

    cases = [(number, runs.random.uniform(0.3, 0.9), runs.random.randint(1, BORDERS)) for number in range(count)]
    return gather([partial(one, *case) for case in cases], at_once=1)


def _not_stopped(directory: Path, clock: float) -> str:
    """Returns what is wrong with the end of a run that got SIGTERM, "" for nothing.

    clock: when the signal came, in UNIX seconds. It is wrong if the run didn't stop, or if a step that was trained is
    not saved.
    """
    record = status(directory)
    if record["state"] == "none":
        return ""  # the signal came before the run had its directory
    if record["state"] == "finished" and record["updated"] < clock + 1:
        return ""  # the signal came after the last step
    if (record["state"], record["exit_code"]) != ("stopped", 143):
        return f"status.json says {record}"
    if any(words in record["message"] for words in ("before the training", "before anything", "newest checkpoint")):
        return ""
    from cil_func.runs import checkpoints

    found, _ = checkpoints.newest(directory / "checkpoints")
    place, at = f"(phase {found.record['phase']}", found.record["training"]
    place += f", epoch {at['epoch']}, step {at['step']}" if at else ""
    place += ")" if found.record["select_seconds"] is None else ", exemplars selected)"
    return "" if place in record["message"] else f"{place} is saved, and status.json says {record['message']!r}"


def non_finite(runs: RealRuns, count: int) -> Tally:
    """NaN or infinity in the input, loss, gradient or weight of a step, in phase 0 or 1, on either of two processes."""
    runs.undisturbed(2)
    places = [
        (value, where, at, rank)
        for at in (5, 14)  # steps of phases 0 and 1
        for rank in (0, 1)
        for where in ("input", "loss", "gradient", "weight")
        for value in ("nan", "inf")
    ]

    def one(value: str, where: str, at: int, rank: int) -> str:
        directory = runs.new_directory()
        done = runs.run_to_end(directory, 2, fault={"what": f"{value} in the {where}", "at": at, "rank": rank})
        record = status(directory)
        phase, step = divmod(at - 1, 9)
        named = f"phase {phase}, epoch 0, step {step}: "
        problem = "" if record["exit_code"] == 4 and named in record["message"] else f"{record['message']!r}"
        problem = problem or ("" if done.returncode else "it ended well") or runs.resume_and_compare(directory, 2)
        return problem and f"{value} in the {where}, rank {rank}, {named}{problem}"

    return gather([partial(one, *place) for place in places[:count]], at_once=1)
