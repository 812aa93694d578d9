"""Collects which recorded runs stand beside published rows: `python -m benchmarks.recorded`.

Writes cil_func/studies/recorded.json, which an installed package has too, from the records in benchmarks/results/, and
the table in cil_func/studies/reproduce.md.
"""

import json
import sys

from benchmarks.measure import RESULTS
from cil_func.runs import files
from cil_func.studies import recorded

PAGE = recorded.FILE.with_name("reproduce.md")
MARK = "<!-- python -m benchmarks.recorded writes this table -->\n"


def main() -> int:
    found = collected()
    files.write_json(recorded.FILE, found)
    before, _, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    files.write_text(PAGE, f"{before}{MARK}\n{recorded.markdown(found)}")
    print(recorded.markdown(found))
    return 0


def collected() -> list[dict]:
    """Returns the entries of all records of published rows, see `recorded.ordered`."""
    read = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    return recorded.ordered(entry for name, record in read.items() if (entry := recorded.of_record(record, name)))


if __name__ == "__main__":
    sys.exit(main())
