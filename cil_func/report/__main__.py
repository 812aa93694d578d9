"""`python -m cil_func report DIR`, or `python -m cil_func.report DIR`: draws a run's report again, from its files."""

import sys

from cil_func.config.parser import Parser
from cil_func.errors import CilError
from cil_func.runs import report_files, status


def main(arguments: list[str] | None = None) -> int:
    """Writes DIR/report/ and prints the paths of its files. Returns the exit status.

    arguments: of the command line, after the program's name; None: those of this process.
    Exit status 0: all is drawn. 1: some files can't be drawn; the reasons are printed, one a line. 2: there is nothing
    to draw. 74: report/ can't be written.
    """
    parser = Parser(prog="python -m cil_func report", description=__doc__)
    parser.add_argument("directory", metavar="DIR", help="a run directory: it holds results.json")
    problems: list[str] = []
    try:
        directory = parser.parse_args(arguments).directory
        written = report_files.write_report(directory, warn=problems.append)
    except CilError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    for path in written:
        print(path)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    record = status.read(directory)
    if record.get("state") not in (None, "finished"):
        print(f"note: the run is not finished: {status.describe(record)}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
