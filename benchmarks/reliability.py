"""Does a run survive what happens to it? `python -m benchmarks.reliability [--full] [--only NAME,...] [--json PATH]`.

A run of three phases on the digits is killed, stopped and fed with NaN, as real processes, and then the same command
goes on: it must end with the bits of a run that nothing happened to (weights, exemplars, results). What concerns files
alone (crashes inside a save, damage, a full disk) is tried on checkpoints in this process, with a disk that can fail.
Each line of the table is one kind of event: how often it was tried, and how often the promise was broken, which must
be never. Figures: tried_NAME and broken_NAME. --full: the large counts; --only: some kinds.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks import measure
from benchmarks.damage import Tally
from benchmarks.lab import BORDERS, ROOT, SETTINGS, SYNCS, Lab, alive, different

COUNTS = {  # kind -> (usually, with --full)
    "kill": (60, 200), "kill_of_two": (10, 30), "restart": (5, 10), "every_step": (1, 1), "crash_in_a_save": (1, 1),
    "bit_flips": (2000, 2000), "truncations": (500, 500), "sigterm": (20, 50), "disk_full": (10, 50),
    "non_finite": (32, 32), "bad_configurations": (500, 500), "bad_folders": (100, 100),
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    conditions = measure.conditions("cpu", commit=options.commit) | {"seed": options.seed, "settings": list(SETTINGS)}
    figures, broken = {}, []
    with tempfile.TemporaryDirectory(prefix="benchmark-reliability-") as scratch:
        lab = Lab(Path(scratch), options.seed)
        rows = [["what happened", "tried", "broken", "seconds"]]
        for name in options.only:
            clock = time.monotonic()
            tally = KINDS[name](lab, options.count or COUNTS[name][options.full])
            figures |= {f"tried_{name}": tally.tried, f"broken_{name}": len(tally.missed)}
            broken += [f"{name}: {line}" for line in tally.missed]
            rows.append([name, tally.tried, len(tally.missed), time.monotonic() - clock])
            print(f"{name}: {tally.tried} tried, {len(tally.missed)} broken", flush=True)
    measure.table(rows)
    print(*broken, sep="\n")
    print(measure.write("reliability", figures, conditions, options.json))
    return 1 if broken else 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = measure.parser(__doc__)
    parser.add_argument("--full", action="store_true", help="the large counts")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(COUNTS), help=",".join(COUNTS))
    parser.add_argument("--count", type=int, default=0, help="of each kind, in place of the usual one")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.only) - set(KINDS)):
        parser.error(f"--only {unknown[0]!r}; of {', '.join(KINDS)}")
    return options


def gather(tasks: list[Callable[[], str]], *, at_once: int) -> Tally:
    """Does the tasks; each returns what was broken, or ""."""
    with ThreadPoolExecutor(at_once) as pool:
        found = list(pool.map(lambda task: task(), tasks))
    return Tally(len(tasks), [text for text in found if text])


# killed


def kill(lab: Lab, count: int) -> Tally:
    """SIGKILL at random moments; each third one at a random call inside a save."""
    _, seconds = lab.undisturbed(0)
    moments = [(lab.draw.uniform(0.2, 0.95) * seconds, lab.draw.randint(1, SYNCS)) for _ in range(count)]

    def one(number: int) -> str:
        directory, (moment, at) = lab.new(), moments[number]
        if number % 3 == 0:
            process = lab.start(directory, 0, fault={"what": "SIGKILL in a save", "at": at})
            where = f"killed in a save, call {at}"
        else:
            process, where = lab.start(directory, 0), f"killed after {moment:.2f} s"
            time.sleep(moment)
            process.kill()
        process.communicate()
        problem = "" if process.returncode == -signal.SIGKILL else f"it ended by itself, with {process.returncode}"
        problem = problem or lab.goes_on(directory, 0)
        return problem and f"{where}: {problem}"

    return gather([partial(one, number) for number in range(count)], at_once=2)


def kill_of_two(lab: Lab, count: int) -> Tally:
    """One of two processes is killed at a random border: both are gone, and the same command goes on."""
    lab.undisturbed(2)

    def one(rank: int, at: int) -> str:
        directory = lab.new()
        lab.finish(directory, 2, fault={"what": "SIGKILL", "rank": rank, "at": at})
        status = json.loads((directory / "status.json").read_text(encoding="utf-8"))
        problem = "" if f"rank {rank} (" in status["message"] else f"status.json says {status['message']!r}"
        problem = problem or lab.goes_on(directory, 2)
        return problem and f"rank {rank} at border {at}: {problem}"

    cases = [(number % 2, lab.draw.randint(1, BORDERS)) for number in range(count)]
    return gather([partial(one, *case) for case in cases], at_once=1)


def restart(lab: Lab, count: int) -> Tally:
    """A random one of two processes is killed, and the launcher starts both again (--max-restarts 3)."""
    lab.undisturbed(2)

    def one(rank: int, at: int) -> str:
        directory = lab.new()
        once = str(directory.parent / "once")
        fault = {"what": "SIGKILL", "rank": rank, "at": at, "once": once}
        done = lab.finish(directory, 2, fault=fault, flags=("--max_restarts=3",))
        problem = f"status {done.returncode}" if done.returncode else different(directory, lab.undisturbed(2)[0])
        problem = problem or ("" if Path(once).exists() else "nothing was killed")
        return problem and f"rank {rank} at border {at}: {problem}"

    cases = [(number % 2, lab.draw.randint(1, BORDERS)) for number in range(count)]
    return gather([partial(one, *case) for case in cases], at_once=1)


def every_step(lab: Lab, _: int) -> Tally:
    """Stopped by SIGTERM at every border of the run, and gone on with."""
    lab.undisturbed(0)

    def one(at: int) -> str:
        directory = lab.new()
        done = lab.finish(directory, 0, fault={"what": "SIGTERM", "at": at})
        problem = "" if done.returncode == 143 else f"status {done.returncode}"
        problem = problem or lab.goes_on(directory, 0)
        return problem and f"border {at}: {problem}"

    return gather([partial(one, at) for at in range(1, BORDERS + 1)], at_once=2)


def sigterm(lab: Lab, count: int) -> Tally:
    """SIGTERM to two processes at random moments: to the launcher, or to a random one of them alone."""
    _, seconds = lab.undisturbed(2)  # its start included

    def one(number: int, share: float, at: int) -> str:
        directory = lab.new()
        once = directory.parent / "once"
        if number % 2:
            fault = {"what": "SIGTERM", "rank": at % 2, "at": at, "once": str(once)}
            process, where = lab.start(directory, 2, fault=fault), f"rank {at % 2} at border {at}"
            process.wait(timeout=200)
            clock = once.stat().st_mtime
        else:
            process, where = lab.start(directory, 2), f"the launcher after {share * seconds:.1f} s"
            time.sleep(share * seconds)
            clock = time.time()
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=200)
        gone = time.time() - clock
        problem = f"gone after {gone:.1f} s" if gone > 10 else alive(directory)
        problem = problem or _not_stopped(directory) or lab.goes_on(directory, 2)
        return problem and f"{where}: {problem}"

    cases = [(number, lab.draw.uniform(0.3, 0.9), lab.draw.randint(1, BORDERS)) for number in range(count)]
    return gather([partial(one, *case) for case in cases], at_once=1)


def _not_stopped(directory: Path) -> str:
    """What is wrong with the end of a run that SIGTERM stopped, if it had begun; and whether a step was lost."""
    if not (directory / "status.json").exists():
        return ""  # it came before the directory was this run's
    status = json.loads((directory / "status.json").read_text(encoding="utf-8"))
    if (status["state"], status["exit_code"]) != ("stopped", 143):
        return f"status.json says {status}"
    if "before the training" in status["message"]:
        return ""
    from cil_func import checkpoint

    found, _ = checkpoint.newest(directory / "checkpoints")
    at = found.record["training"] or {"epoch": -1, "step": 0}
    place = f"(phase {found.record['phase']}, epoch {at['epoch']}, step {at['step']})"
    return "" if place in status["message"] else f"{place} is saved, and status.json says {status['message']}"


# files


def crash_in_a_save(lab: Lab, _: int) -> Tally:
    """The process or the power ends before, in and after every call of a save."""
    from benchmarks import failing_saves
    from benchmarks.damage import example

    return failing_saves.crash_at_every_call(_saved(lab), example(3), scratch=lab.new())


def bit_flips(lab: Lab, count: int) -> Tally:
    from benchmarks import damage

    return damage.flip_bits(_saved(lab), count, seed=lab.draw.randrange(1 << 30), scratch=lab.new())


def truncations(lab: Lab, count: int) -> Tally:
    from benchmarks import damage

    return damage.truncate_and_delete(_saved(lab), count, seed=lab.draw.randrange(1 << 30), scratch=lab.new())


def disk_full(lab: Lab, count: int) -> Tally:
    from benchmarks import failing_saves
    from benchmarks.damage import example

    return failing_saves.disk_full(_saved(lab), example(3), count, scratch=lab.new())


def _saved(lab: Lab) -> Path:
    """A folder with two checkpoints."""
    from benchmarks.damage import example
    from cil_func import checkpoint

    folder = lab.new()
    for number in (1, 2):
        held = example(number)
        checkpoint.save(folder, held.tree, held.record, number=number)
    return folder


# numbers and input


def non_finite(lab: Lab, count: int) -> Tally:
    """NaN or infinity in the input, loss, gradient or weight of a step, in phase 0 or 1, on either of two processes."""
    lab.undisturbed(2)
    places = [
        (value, where, at, rank)
        for at in (5, 14)  # steps of phases 0 and 1
        for rank in (0, 1)
        for where in ("input", "loss", "gradient", "weight")
        for value in ("nan", "inf")
    ]

    def one(value: str, where: str, at: int, rank: int) -> str:
        directory = lab.new()
        done = lab.finish(directory, 2, fault={"what": f"{value} in the {where}", "at": at, "rank": rank})
        status = json.loads((directory / "status.json").read_text(encoding="utf-8"))
        phase, step = divmod(at - 1, 9)
        named = f"phase {phase}, epoch 0, step {step}: "
        problem = "" if status["exit_code"] == 4 and named in status["message"] else f"{status['message']!r}"
        problem = problem or ("" if done.returncode else "it ended well") or lab.goes_on(directory, 2)
        return problem and f"{value} in the {where}, rank {rank}, {named}{problem}"

    return gather([partial(one, *place) for place in places[:count]], at_once=1)


def bad_configurations(lab: Lab, count: int) -> Tally:
    from benchmarks import mistakes

    cases = mistakes.configurations(lab.draw.randrange(1 << 30))
    chosen = lab.draw.sample(cases, min(count, len(cases)))
    folder = lab.new().parent

    def one(number: int, case: mistakes.BadConfig) -> str:
        own = folder / str(number)
        own.mkdir(parents=True)
        return _refused(case.flags(own), 2, case.says)

    return gather([partial(one, *pair) for pair in enumerate(chosen)], at_once=2)


def bad_folders(lab: Lab, count: int) -> Tally:
    from benchmarks import bad_folders

    folder = lab.new().parent

    def one(number: int, case: bad_folders.BadFolder) -> str:
        own = folder / str(number)
        own.mkdir(parents=True)
        flags = [*case.flags(own), "--out", str(own / "run")]
        return _refused(flags, 3, case.says)

    cases = bad_folders.folders(count, lab.draw.randrange(1 << 30))
    return gather([partial(one, *pair) for pair in enumerate(cases)], at_once=2)


def _refused(flags: list[str], status: int, says) -> str:
    from benchmarks import mistakes

    words = [sys.executable, "train.py", *map(str, flags)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=200)
    return mistakes.fault(done.returncode, done.stderr, expected=status, says=says)


KINDS: dict[str, Callable[[Lab, int], Tally]] = {
    function.__name__: function
    for function in (
        kill, kill_of_two, restart, every_step, crash_in_a_save, bit_flips, truncations, sigterm, disk_full, non_finite,
        bad_configurations, bad_folders,
    )
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
