"""Does a run survive what happens to it? `python -m benchmarks.reliability [--full] [--only NAME,...] [--json PATH]`.

A run of three phases on the digits is killed, stopped and given NaN, as real processes. Then the same command goes on,
and must end with the bits of a run to which nothing happened (weights, exemplars, results). What concerns files alone
(crashes inside a save, damage, a full disk) is tried on checkpoints in this process, with a disk that can fail.

Each line of the table is one kind of event: how often it was tried, and how often the promise was broken, which must
never happen. Figures: tried_NAME and broken_NAME. --full takes the large counts, --only some kinds; both need --json.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import measure
from benchmarks.reliability_helpers import disturbances
from benchmarks.reliability_helpers.damage import Tally
from benchmarks.reliability_helpers.real_runs import ROOT, SETTINGS, RealRuns

COUNTS = {  # kind -> (usually, with --full)
    "kill": (60, 200), "kill_of_an_extension": (20, 60), "kill_of_two": (10, 30), "restart": (5, 10),
    "every_step": (1, 1), "crash_in_a_save": (1, 1), "bit_flips": (2000, 2000), "truncations": (500, 500),
    "sigterm": (20, 50), "disk_full": (10, 50), "non_finite": (32, 32), "bad_configurations": (500, 500),
    "bad_folders": (100, 100),
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    conditions = measure.conditions("cpu", commit=options.commit) | {"seed": options.seed, "settings": list(SETTINGS)}
    figures, broken = {}, 0
    with tempfile.TemporaryDirectory(prefix="benchmark-reliability-") as scratch:
        runs = RealRuns(Path(scratch), options.seed)
        rows = [["what happened", "tried", "broken", "seconds"]]
        for name in options.only:
            clock = time.monotonic()
            tally = KINDS[name](runs, options.count or COUNTS[name][options.full])
            figures |= {f"tried_{name}": tally.tried, f"broken_{name}": len(tally.failures)}
            broken += len(tally.failures)
            rows.append([name, tally.tried, len(tally.failures), time.monotonic() - clock])
            print(f"{name}: {tally.tried} tried, {len(tally.failures)} broken", flush=True)
            print(*(f"  {line}" for line in tally.failures), sep="\n", end="\n" * bool(tally.failures), flush=True)
    measure.table(rows)
    path = measure.write("reliability", figures, conditions, options.json)
    path.with_suffix(".md").write_text(markdown(figures), encoding="utf-8")
    print(path)
    return 1 if broken else 0


def markdown(figures: dict[str, int]) -> str:
    """Returns the figures as a Markdown table for people. A kind is described by its function's docstring."""
    lines = ["| what happened | tried | broken |", "| --- | --- | --- |"]
    for name, function in KINDS.items():
        if f"tried_{name}" in figures:
            what = " ".join((function.__doc__ or name).split()).rstrip(".")
            lines.append(f"| {what} | {figures[f'tried_{name}']} | {figures[f'broken_{name}']} |")
    return "\n".join(lines) + "\n"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = measure.parser(__doc__)
    parser.add_argument("--full", action="store_true", help="the large counts")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(COUNTS), help=",".join(COUNTS))
    parser.add_argument("--count", type=int, default=0, help="of each kind, in place of the usual one")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.only) - set(KINDS)):
        parser.error(f"--only {unknown[0]!r}; of {', '.join(KINDS)}")
    measure.refuse_replacing(parser, options, changed_by=("full", "only", "count", "seed"))
    return options


# files


def crash_in_a_save(runs: RealRuns, _: int) -> Tally:
    """The process or the power ends before, in and after every call of a save."""
    from benchmarks.reliability_helpers import failing_saves
    from benchmarks.reliability_helpers.damage import example

    return failing_saves.crash_at_every_call(_saved(runs), example(3), scratch=runs.new_directory())


def bit_flips(runs: RealRuns, count: int) -> Tally:
    """A bit of a checkpoint's files is flipped: detected, and never loaded."""
    from benchmarks.reliability_helpers import damage

    return damage.flip_bits(_saved(runs), count, seed=runs.random.randrange(1 << 30), scratch=runs.new_directory())


def truncations(runs: RealRuns, count: int) -> Tally:
    """A file of a checkpoint is cut short or deleted: detected, and never loaded."""
    from benchmarks.reliability_helpers import damage

    seed = runs.random.randrange(1 << 30)
    return damage.truncate_and_delete(_saved(runs), count, seed=seed, scratch=runs.new_directory())


def disk_full(runs: RealRuns, count: int) -> Tally:
    """The disk is full at some size of a save: the earlier checkpoint is intact."""
    from benchmarks.reliability_helpers import failing_saves
    from benchmarks.reliability_helpers.damage import example

    return failing_saves.disk_full(_saved(runs), example(3), count, scratch=runs.new_directory())


def _saved(runs: RealRuns) -> Path:
    """Returns a new folder with two checkpoints."""
    from benchmarks.reliability_helpers.damage import example
    from cil_func.runs import checkpoints

    folder = runs.new_directory()
    for number in (1, 2):
        made = example(number)
        checkpoints.save(folder, made.tree, made.record, number=number)
    return folder


# input


def bad_configurations(runs: RealRuns, count: int) -> Tally:
    """A wrong configuration, generated from the schema: exit 2 and one line."""
    from benchmarks.reliability_helpers import bad_configurations

    cases = bad_configurations.configurations(runs.random.randrange(1 << 30))
    chosen = runs.random.sample(cases, min(count, len(cases)))
    folder = runs.new_directory().parent

    def one(number: int, case: bad_configurations.BadConfig) -> str:
        own = folder / str(number)
        own.mkdir(parents=True)
        return _refused(case.flags(own), 2, case.says)

    return disturbances.gather([partial(one, *pair) for pair in enumerate(chosen)], at_once=2)


def bad_folders(runs: RealRuns, count: int) -> Tally:
    """A folder of images with something wrong: exit 3 and one line."""
    from benchmarks.reliability_helpers import bad_folders

    folder = runs.new_directory().parent

    def one(number: int, case: bad_folders.BadFolder) -> str:
        own = folder / str(number)
        own.mkdir(parents=True)
        flags = [*case.flags(own / "images"), "--out", str(own / "run")]
        return _refused(flags, 3, case.says)

    cases = bad_folders.folders(count, runs.random.randrange(1 << 30))
    return disturbances.gather([partial(one, *pair) for pair in enumerate(cases)], at_once=2)


def _refused(flags: list[str], status: int, says) -> str:
    from benchmarks.reliability_helpers import bad_configurations

    words = [sys.executable, "train.py", *map(str, flags)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=200)
    return bad_configurations.fault(done.returncode, done.stderr, expected=status, says=says)


KINDS: dict[str, Callable[[RealRuns, int], Tally]] = {
    function.__name__: function
    for function in (
        disturbances.kill, disturbances.kill_of_an_extension, disturbances.kill_of_two, disturbances.restart,
        disturbances.every_step, crash_in_a_save, bit_flips, truncations, disturbances.sigterm, disk_full,
        disturbances.non_finite, bad_configurations, bad_folders,
    )
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
