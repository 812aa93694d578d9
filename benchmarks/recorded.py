"""Collects which recorded runs stand beside published rows: `python -m benchmarks.recorded`.

Writes cil_func/studies/recorded.json, which an installed package has too, from the records in benchmarks/results/, the
table in cil_func/studies/reproduce.md, and that of the presets in README.md. `python -m benchmarks.record` does it too.
"""

import json
import sys

from benchmarks.measure import RESULTS
from cil_func.runs import files
from cil_func.studies import recorded

PAGE = recorded.FILE.with_name("reproduce.md")
README = RESULTS.parents[1] / "README.md"
MARK = "<!-- python -m benchmarks.recorded writes this table -->\n"


def main() -> int:
    print(recorded.markdown(refresh()))
    return 0


def refresh() -> list[dict]:
    """Writes the file and both tables anew. Returns the entries."""
    found = collected()
    files.write_json(recorded.FILE, found)
    for page, table in ((PAGE, recorded.markdown(found)), (README, recorded.markdown_of_presets(found))):
        files.write_text(page, with_table(page.read_text(encoding="utf-8"), table))
    return found


def with_table(page: str, table: str) -> str:
    """Returns a page with another table behind MARK. table: Markdown; it ends in a line break, as the old one does."""
    before, _, behind = page.partition(MARK)
    lines = behind.lstrip("\n").splitlines(keepends=True)
    while lines and lines[0].startswith("|"):
        lines.pop(0)
    rest = "".join(lines).lstrip("\n")
    return f"{before}{MARK}\n{table}" + (f"\n{rest}" if rest else "")


def collected() -> list[dict]:
    """Returns the entries of all records of published rows, see `recorded.ordered`."""
    read = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))}
    return recorded.ordered(entry for name, record in read.items() if (entry := recorded.of_record(record, name)))


if __name__ == "__main__":
    sys.exit(main())
