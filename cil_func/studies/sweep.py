"""The command `python -m cil_func sweep DIR`: many ordinary runs, and the table of their means and deviations.

Repeating the command trains what is missing, goes on with what was stopped, and ends in the same table.
"""

import argparse
import os
import shlex
import signal
import sys
from functools import partial
from pathlib import Path

from cil_func.config.parser import Parser
from cil_func.errors import CilError, ConfigError
from cil_func.runs import output
from cil_func.runs.directory import refuse_another_run
from cil_func.studies import search, sweep_jobs, sweep_plan, sweep_table
from cil_func.studies.finished_runs import FinishedRuns


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns its exit status: 0 if all runs are finished, else that of the first one that failed.

    arguments: the flags, without the program's name; None: those of this process. 2: a mistake in the flags or in the
    configuration of one of the runs, found before any of them begins. 5: a finished run without results that can be
    used. 129, 130, 143: stopped by a signal, after saving.
    """
    try:
        options = _parse(arguments)
        return _sweep(options)
    except CilError as error:
        output.tell(f"sweep: {error}")
        return error.exit_status
    except (sweep_jobs.Interrupted, KeyboardInterrupt) as stopped:
        output.tell("sweep: stopped, and what the runs have is saved; the same command goes on")
        return 128 + getattr(stopped, "number", signal.SIGINT)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m cil_func sweep", description=__doc__, allow_abbrev=False)
    parser.add_argument("directory", type=Path, metavar="DIR", help="gets a directory for each run, and the table")
    parser.add_argument("--config", default="digits", metavar="NAME", help="a path, else a preset; default digits")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="for all runs")
    parser.add_argument(
        "--grid", action="append", default=[], metavar="TABLE.KEY=V1,V2", help="values to combine; repeatable"
    )
    parser.add_argument("--seeds", default="", metavar="S1,S2", help="values of run.seed")
    parser.add_argument("--orders", default="", metavar="S1,S2", help="seeds of shuffled class orders")
    parser.add_argument(
        "--search", action="append", default=[], metavar="TABLE.KEY=RANGE", help="values to choose by validation images"
    )
    parser.add_argument("--trials", type=int, default=0, metavar="N", help="choices of --search to try")
    parser.add_argument("--first-phase", action="store_true", help="--search trains and judges phase 0 alone")
    parser.add_argument("--round", type=int, default=4, metavar="N", help="trials chosen at a time; default 4")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at a time; default 1")
    parser.add_argument("--print", action="store_true", help="print one command a line and run nothing")
    return parser.parse_args(arguments)


def _sweep(options: argparse.Namespace) -> int:
    """Does what the flags ask for and returns the exit status."""
    if options.jobs < 1:
        raise ConfigError(f"--jobs {options.jobs}: give 1 or more")
    tell = partial(output.tell, stream=sys.stdout)
    threads = max(1, (os.cpu_count() or 1) // options.jobs) if options.jobs > 1 else 0
    train = partial(sweep_jobs.train, at_once=options.jobs, threads=threads, tell=tell)
    seeds, orders = seeds_of("--seeds", options.seeds), seeds_of("--orders", options.orders)
    if options.search:
        return search.run(options, seeds, orders, train=train, tell=tell)
    if options.trials or options.first_phase:
        flag = "--trials" if options.trials else "--first-phase"
        raise ConfigError(f"{flag} belongs to --search, which is missing; write --search 'table.key=RANGE'")
    return _grid(options, seeds, orders, train)


def _grid(options: argparse.Namespace, seeds: list[str], orders: list[str], train: search.Train) -> int:
    """Trains every combination, writes the table and returns the exit status. train: see `search.run`."""
    sweep_plan.refuse_set(options.set, seeds, orders)
    planned = sweep_plan.runs(options.grid, seeds, orders)
    configs = sweep_plan.checked(options.config, options.set, planned)
    commands = {run: sweep_plan.command(options.config, options.set, run, options.directory) for run in planned}
    for run, config in zip(planned, configs, strict=True):
        refuse_another_run(config, options.directory / run.name, where="DIR", of_many=True)
    if options.print:
        for arguments in commands.values():
            print(shlex.join(["python", "-m", "cil_func", "train", *arguments]))
        return 0
    keys = sorted({setting.partition("=")[0] for run in planned for setting in run.settings})
    combinations = list({run.group: config for run, config in zip(planned, configs, strict=True)}.values())
    for line, number in sweep_plan.without_effect(combinations, keys).items():
        part = f" ({number} of {len(combinations)} combinations)" if number < len(combinations) else ""
        output.tell(f"sweep: warning: {line}{part}")
    finished = FinishedRuns(where="DIR", tell=lambda line: output.tell(f"sweep: warning: {line}"))
    finished.check({options.directory / run.name: config for run, config in zip(planned, configs, strict=True)})
    jobs = [
        sweep_jobs.Job(run.name, arguments, options.directory)
        for run, arguments in commands.items()
        if not sweep_table.results_of(options.directory / run.name)
    ]
    output.tell(f"{len(planned)} runs, {len(planned) - len(jobs)} of them finished before", sys.stdout)
    ended = train(jobs)
    entries = sweep_table.collect(options.directory, planned)
    sweep_table.write(options.directory, entries, {
        "config": options.config, "set": options.set, "grid": options.grid, "seeds": options.seeds,
        "orders": options.orders,
    })  # fmt: skip
    output.tell(f"\n{sweep_table.markdown(entries)}\n{options.directory / 'table.md'}", sys.stdout)
    sweep_table.refuse_without_results(options.directory, ended)
    return next((status for status in ended.values() if status), 0)


def seeds_of(flag: str, text: str) -> list[str]:
    """Returns the seeds in "0,1,2" as text. Raises ConfigError if one is no number, or comes twice."""
    found = [part.strip() for part in text.split(",")] if text else []
    if any(not part.isdecimal() for part in found) or len(set(found)) < len(found):
        raise ConfigError(f"{flag} {text}: give whole numbers from 0, each once, as in {flag} 0,1,2")
    return found
