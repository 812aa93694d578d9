"""The command `python -m cil_func reproduce [ROW...]`: published rows beside ours, with source, recipe and difference.

Each seed of a row is an ordinary run, which the same command goes on with after a stop. Without a row, or with --list,
it lists the rows and what is recorded of them.
"""

import argparse
import json
import os
import shlex
import signal
import sys
import textwrap
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cil_func import config as configuration
from cil_func.config.messages import shown
from cil_func.config.parser import Parser
from cil_func.errors import CilError, ConfigError
from cil_func.report import published
from cil_func.report.published import Published
from cil_func.report.tables import number
from cil_func.runs import output
from cil_func.runs.directory import refuse_another_run
from cil_func.runs.method_of import method_to_train
from cil_func.studies import published_rows, recorded, sweep, sweep_jobs, sweep_plan, sweep_table
from cil_func.studies.finished_runs import FinishedRuns

_WIDTH = 100  # characters of a line
_MEASURED = (("average", "average_incremental_accuracy"), ("last", "last_accuracy"))


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns its exit status: 0, or that of the first run that failed.

    arguments: the flags, without the program's name; None: those of this process. 2: a mistake in the flags, a name
    that is no row, and a row that can't be trained here, found before any run begins. 5: a finished run without results
    that can be used. 129, 130, 143: stopped by a signal.
    """
    try:
        return _reproduce(_parse(arguments))
    except CilError as error:
        output.tell(f"reproduce: {error}")
        return error.exit_status
    except (sweep_jobs.Interrupted, KeyboardInterrupt) as stopped:
        output.tell("reproduce: stopped, and what the runs have is saved; the same command goes on")
        return 128 + getattr(stopped, "number", signal.SIGINT)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m cil_func reproduce", description=__doc__, allow_abbrev=False)
    parser.add_argument("rows", nargs="*", metavar="ROW", help="names such as wa-b50-10; --list shows them")
    parser.add_argument("--list", action="store_true", help="list the rows, all or those named; train nothing")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--runs", type=Path, default=Path("runs/reproduce"), metavar="DIR", help="gets the runs")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="for all runs")
    parser.add_argument("--seeds", default="0", metavar="S1,S2", help="values of run.seed; default 0")
    parser.add_argument("--orders", default="", metavar="S1,S2", help="seeds of shuffled class orders")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at a time; default 1")
    parser.add_argument("--print", action="store_true", help="print one command a line and run nothing")
    return parser.parse_args(arguments)


def _reproduce(options: argparse.Namespace) -> int:
    """Does what the flags ask for and returns the exit status."""
    if twice := [name for name in options.rows if options.rows.count(name) > 1]:
        raise ConfigError(f"{shown(twice[0])} comes twice")
    rows = [published_rows.find(name) for name in options.rows]
    if options.list or not rows:
        found = [_listed(row) for row in rows or published.every()]
        print(json.dumps(found, indent=2) if options.json else "\n".join(list_lines(found)))
        return 0
    if options.jobs < 1:
        raise ConfigError(f"--jobs {options.jobs}: give 1 or more")
    if options.runs.exists() and not options.runs.is_dir():
        raise ConfigError(f"--runs {options.runs}: is a file; name a directory")
    planned = {row: _runs(row, options) for row in rows}
    jobs = [job for row, runs in planned.items() for job in _jobs(row, runs, options)]
    if options.print:
        for job in jobs:
            print(shlex.join(["python", "-m", "cil_func", "train", *job.arguments]))
        return 0
    finished = FinishedRuns(where="--runs", tell=lambda line: output.tell(f"reproduce: warning: {line}"))
    finished.check({
        options.runs / run.name: configuration.load(row.preset, run.settings)
        for row, runs in planned.items()
        for run in runs
    })  # fmt: skip
    left = [job for job in jobs if not sweep_table.results_of(job.directory)]
    tell = partial(output.tell, stream=sys.stderr if options.json else sys.stdout)
    threads = max(1, (os.cpu_count() or 1) // options.jobs) if options.jobs > 1 else 0
    ended = sweep_jobs.train(left, at_once=options.jobs, threads=threads, tell=tell)
    compared = [compare(row, options.runs, runs, options.set) for row, runs in planned.items()]
    if options.json:
        output.tell(json.dumps(compared, indent=2), sys.stdout)
    else:
        for each in compared:
            output.tell("\n".join(["", *lines(each)]), sys.stdout)
    sweep_table.refuse_without_results(options.runs, ended)
    return next((status for status in ended.values() if status), 0)


def _runs(row: Published, options: argparse.Namespace) -> list[sweep_plan.Run]:
    """Returns the runs of a row, one for each seed and class order. Raises ConfigError for what can't be trained."""
    seeds, orders = sweep.seeds_of("--seeds", options.seeds), sweep.seeds_of("--orders", options.orders)
    sweep_plan.refuse_set(options.set, seeds, orders)
    runs = []
    for run in sweep_plan.runs([], seeds, orders):
        settings = (*published_rows.settings_of(row), *options.set, *run.settings)
        runs.append(run._replace(name=f"{row.name}_{run.name}", settings=settings))
        config = published_rows.config_of(row, [*options.set, *run.settings])
        method_to_train(config)
        refuse_another_run(config, options.runs / runs[-1].name, where="--runs", of_many=True)
    return runs


def _jobs(row: Published, runs: Sequence[sweep_plan.Run], options: argparse.Namespace) -> Iterator[sweep_jobs.Job]:
    for run in runs:
        arguments = sweep_plan.command(row.preset, [], run, options.runs)
        yield sweep_jobs.Job(run.name, arguments, options.runs)


def _listed(row: Published) -> dict[str, Any]:
    """Returns what --list says of a row, in types of JSON."""
    return {
        "row": row.name, "average": row.average, "last": row.last, "uncertain": row.uncertain, "source": row.source,
        "about": row.group.text, "closed": published_rows.why_not(row), "recorded": recorded.of_row(row),
    }  # fmt: skip


def list_lines(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yields the lines of --list: for each group what its rows share, then its rows; the sources come last.

    found: from `_listed`.
    """
    about, sources = "", list(dict.fromkeys(each["source"] for each in found))
    for each in found:
        if each["about"] != about:
            about = each["about"]
            yield from ("", about, f"  {'row':<28} {'average':>7} {'last':>6}  {'recorded':<13}  source")
        row = published_rows.find(each["row"])
        numbers = [published_rows.number(each[key], row) for key in ("average", "last")]
        best = next(iter(each["recorded"]), None)
        ours = f"{number(best['average'])} / {number(best['last'])}" if best else "-"
        ours += "*" if best and best["differs"] else ""
        closed = f"  not trained here: {each['closed']}" if each["closed"] else ""
        source = f"[{sources.index(each['source']) + 1}]"
        yield f"  {row.name:<28} {numbers[0]:>7} {numbers[1]:>6}  {ours:<13}  {source}{closed}"
    yield ""
    for place, source in enumerate(sources, start=1):
        yield from _wrapped(f"[{place}] {source}", later="    ")
    yield from ("", "~ uncertain   * by another recipe; --list --json says by which")


def compare(row: Published, directory: Path, runs: Sequence[sweep_plan.Run], more: Sequence[str]) -> dict[str, Any]:
    """Returns a row beside the finished ones of its runs, in types of JSON.

    directory: of the runs. more: settings beside the row's own. Keys: those of --list, and ours: {"n", "of", and for
    "average" and "last" {"mean", "deviation", "difference" to the published number}}; differs: what differs from the
    published code; keys: what `recorded.recipe_differences` says of the settings.
    """
    [entry] = sweep_table.collect(directory, runs)
    ours: dict[str, Any] = {"n": entry["n"], "of": entry["of"]}
    for name, key in _MEASURED:
        mean, theirs = entry[key]["mean"], getattr(row, name)
        difference = None if mean is None or theirs is None else mean - theirs
        ours[name] = {"mean": mean, "deviation": entry[key]["deviation"], "difference": difference}
    own = [*more, *(setting for setting in runs[0].settings if setting.startswith("data.class_order="))]  # by --orders
    keys = recorded.recipe_differences(published_rows.config_of(row), published_rows.config_of(row, own))
    return {
        **_listed(row), "recipe": row.recipe, "within": row.within, "ours": ours,
        "differs": [*row.differs, *row.group.differs], "keys": keys,
    }  # fmt: skip


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yields the lines about a row. found: from `compare`."""
    row, ours = published_rows.find(found["row"]), found["ours"]
    yield f"{row.name}: {row.group.text}"
    yield from _wrapped(f"published by: {row.source}")
    yield from _wrapped(f"recipe: {row.recipe or 'not known'}")
    yield from ("", f"  {'':<8} {'published':>12} {'ours':>14} {'difference':>11}    runs: {ours['n']} of {ours['of']}")
    for name, _ in _MEASURED:
        theirs = published_rows.number(getattr(row, name), row) + (f" ± {row.within:g}" if row.within else "")
        each = ours[name]
        mine = number(each["mean"]) + ("" if each["deviation"] is None else f" ± {each['deviation']:.1f}")
        difference = "-" if each["difference"] is None else f"{each['difference']:+z.1f}"
        yield f"  {name:<8} {theirs:>12} {mine:>14} {difference:>11}"
    yield from ("", "what differs from the published recipe:")
    told = [recorded.differing(found["keys"])] if found["keys"] else []
    for text in [*told, *found["differs"]] or ["nothing that is known"]:
        yield from _wrapped(text, "  - ", "    ")


def _wrapped(text: str, first: str = "", later: str = "  ") -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=later, break_long_words=False)
