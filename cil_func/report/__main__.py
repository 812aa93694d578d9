"""`python -m cil_func.report DIR`: draws a run's report again, from its files alone."""

import argparse
import sys

from cil_func.errors import CilError
from cil_func.report import figures


def main(arguments: list[str] | None = None) -> int:
    """Writes DIR/report/ and prints the files' paths; returns the exit status (2: nothing to draw there)."""
    parser = argparse.ArgumentParser(prog="python -m cil_func.report", description=__doc__)
    parser.add_argument("directory", metavar="DIR", help="a run directory: it holds results.json")
    directory = parser.parse_args(arguments).directory
    try:
        written = figures.write(directory)
    except CilError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    for path in written:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
