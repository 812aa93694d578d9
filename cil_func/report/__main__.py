"""`python -m cil_func report RUN... [--out DIR]`: draws a run's report again, or compares several runs."""

import argparse
import sys
from collections.abc import Sequence

from cil_func.config.parser import Parser
from cil_func.errors import CilError, ConfigError
from cil_func.runs import output, report_files, status


def main(arguments: list[str] | None = None) -> int:
    """Writes the report of one run or of several, and prints the paths of its files. Returns the exit status.

    arguments: of the command line, after the program's name; None: those of this process. One run: into RUN/report or
    --out. Several: into --out; without it the table is printed and nothing is written.
    Exit status 0: all is drawn. 1: some files can't be drawn; the reasons are printed, one a line. 2: there is nothing
    to draw. 74: the files can't be written.
    """
    parser = Parser(prog="python -m cil_func report", description=__doc__)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run directory: it holds results.json")
    parser.add_argument("--out", metavar="DIR", help="the folder to write; of one run by default RUN/report")
    try:
        options = parser.parse_args(arguments)
        if options.out == "":
            raise ConfigError("--out is empty; name a folder")
        return _report(options)
    except CilError as error:
        output.tell(f"error: {error}")
        return error.exit_status


def _report(options: argparse.Namespace) -> int:
    """Does what the flags ask for and returns the exit status. What can't be drawn comes first, on stderr."""
    problems: list[str] = []
    lines: Sequence[object]
    if len(options.runs) == 1:
        lines = report_files.write_report(options.runs[0], out=options.out, warn=problems.append)
    elif options.out:
        lines = report_files.write_comparison(options.runs, options.out)
    else:
        lines = [report_files.comparison(options.runs)]
        output.tell("note: --out DIR writes this table as Markdown, CSV and LaTeX, and report.html")
    for problem in problems:
        output.tell(f"error: {problem}")
    for directory in options.runs:
        record = status.read(directory)
        if record.get("state") not in (None, "finished"):
            which = "the run" if len(options.runs) == 1 else directory
            output.tell(f"note: {which} is not finished: {status.describe(record)}")
    found = 1 if problems else 0
    output.say("\n".join(map(str, lines)), found)
    return found


if __name__ == "__main__":
    sys.exit(main())
