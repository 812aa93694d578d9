"""Does a run survive what happens to it? `python -m benchmarks.reliability [--full] [--only NAME,...] [--json PATH]`.

A run of three phases on the digits is killed, stopped and fed with NaN, as real processes, and then the same command
goes on: it must end with the bits of a run that nothing happened to (weights, exemplars, results). What concerns files
alone (crashes inside a save, damage, a full disk) is tried on checkpoints in this process, with a disk that can fail.
Each line of the table is one kind of event: how often it was tried, and how often the promise was broken, which must
be never. Figures: tried_NAME and broken_NAME. --full: the large counts; --only: some kinds.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import disturbed, measure
from benchmarks.damage import Tally
from benchmarks.lab import ROOT, SETTINGS, Lab

COUNTS = {  # kind -> (usually, with --full)
    "kill": (60, 200), "kill_of_two": (10, 30), "restart": (5, 10), "every_step": (1, 1), "crash_in_a_save": (1, 1),
    "bit_flips": (2000, 2000), "truncations": (500, 500), "sigterm": (20, 50), "disk_full": (10, 50),
    "non_finite": (32, 32), "bad_configurations": (500, 500), "bad_folders": (100, 100),
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    conditions = measure.conditions("cpu", commit=options.commit) | {"seed": options.seed, "settings": list(SETTINGS)}
    figures, broken = {}, 0
    with tempfile.TemporaryDirectory(prefix="benchmark-reliability-") as scratch:
        lab = Lab(Path(scratch), options.seed)
        rows = [["what happened", "tried", "broken", "seconds"]]
        for name in options.only:
            clock = time.monotonic()
            tally = KINDS[name](lab, options.count or COUNTS[name][options.full])
            figures |= {f"tried_{name}": tally.tried, f"broken_{name}": len(tally.missed)}
            broken += len(tally.missed)
            rows.append([name, tally.tried, len(tally.missed), time.monotonic() - clock])
            print(f"{name}: {tally.tried} tried, {len(tally.missed)} broken", flush=True)
            print(*(f"  {line}" for line in tally.missed), sep="\n", end="\n" * bool(tally.missed), flush=True)
    measure.table(rows)
    path = measure.write("reliability", figures, conditions, options.json)
    path.with_suffix(".md").write_text(markdown(figures), encoding="utf-8")
    print(path)
    return 1 if broken else 0


def markdown(figures: dict[str, int]) -> str:
    """The table that people read, beside the figures."""
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
    return options


# files


def crash_in_a_save(lab: Lab, _: int) -> Tally:
    """The process or the power ends before, in and after every call of a save."""
    from benchmarks import failing_saves
    from benchmarks.damage import example

    return failing_saves.crash_at_every_call(_saved(lab), example(3), scratch=lab.new())


def bit_flips(lab: Lab, count: int) -> Tally:
    """A bit of a checkpoint's files is flipped: detected, and never loaded."""
    from benchmarks import damage

    return damage.flip_bits(_saved(lab), count, seed=lab.draw.randrange(1 << 30), scratch=lab.new())


def truncations(lab: Lab, count: int) -> Tally:
    """A file of a checkpoint is cut short or deleted: detected, and never loaded."""
    from benchmarks import damage

    return damage.truncate_and_delete(_saved(lab), count, seed=lab.draw.randrange(1 << 30), scratch=lab.new())


def disk_full(lab: Lab, count: int) -> Tally:
    """The disk is full at some size of a save: the earlier checkpoint is intact."""
    from benchmarks import failing_saves
    from benchmarks.damage import example

    return failing_saves.disk_full(_saved(lab), example(3), count, scratch=lab.new())


def _saved(lab: Lab) -> Path:
    """A folder with two checkpoints."""
    from benchmarks.damage import example
    from cil_func.runs import checkpoints

    folder = lab.new()
    for number in (1, 2):
        held = example(number)
        checkpoints.save(folder, held.tree, held.record, number=number)
    return folder


# input


def bad_configurations(lab: Lab, count: int) -> Tally:
    """A wrong configuration, generated from the schema: exit 2 and one line."""
    from benchmarks import mistakes

    cases = mistakes.configurations(lab.draw.randrange(1 << 30))
    chosen = lab.draw.sample(cases, min(count, len(cases)))
    folder = lab.new().parent

    def one(number: int, case: mistakes.BadConfig) -> str:
        own = folder / str(number)
        own.mkdir(parents=True)
        return _refused(case.flags(own), 2, case.says)

    return disturbed.gather([partial(one, *pair) for pair in enumerate(chosen)], at_once=2)


def bad_folders(lab: Lab, count: int) -> Tally:
    """A folder of images with something wrong: exit 3 and one line."""
    from benchmarks import bad_folders

    folder = lab.new().parent

    def one(number: int, case: bad_folders.BadFolder) -> str:
        own = folder / str(number)
        own.mkdir(parents=True)
        flags = [*case.flags(own / "images"), "--out", str(own / "run")]
        return _refused(flags, 3, case.says)

    cases = bad_folders.folders(count, lab.draw.randrange(1 << 30))
    return disturbed.gather([partial(one, *pair) for pair in enumerate(cases)], at_once=2)


def _refused(flags: list[str], status: int, says) -> str:
    from benchmarks import mistakes

    words = [sys.executable, "train.py", *map(str, flags)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, errors="replace", timeout=200)
    return mistakes.fault(done.returncode, done.stderr, expected=status, says=says)


KINDS: dict[str, Callable[[Lab, int], Tally]] = {
    function.__name__: function
    for function in (
        disturbed.kill, disturbed.kill_of_two, disturbed.restart, disturbed.every_step, crash_in_a_save, bit_flips,
        truncations, disturbed.sigterm, disk_full, disturbed.non_finite, bad_configurations, bad_folders,
    )
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
