"""Makes the table of phases: as plain text, as Markdown, and as a rich.Table for a terminal.

The functions take `results`, the content of results.json, and `row`, an entry of its "phases". Values that are missing
or null become "-". Accuracies and shares are in percent. Plain text is ASCII, since a log may be read in any encoding,
and fits into 80 columns.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box
from rich.table import Table

from cil_func.errors import printable

Row = Mapping[str, Any]
Results = Mapping[str, Any]


class Column(NamedTuple):
    """One column of the table.

    title: its heading. width: how many characters it has. cell: called with a row, an entry of results["phases"],
    returns the text in this column, which has at most `width` characters for the values that occur.
    meaning: what the legend says about it; "" if the title says it all.
    """

    title: str
    width: int
    cell: Callable[[Row], str]
    meaning: str = ""


def number(value: float | None, digits: int = 1) -> str:
    """Returns `value` with `digits` decimals, or "-" for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def percent(share: float | None) -> str:
    """Returns a share in [0, 1] in percent with one decimal and no sign, as "12.3" for 0.123; "-" for None."""
    return "-" if share is None else f"{100 * share:.1f}"


def _new_share(row: Row) -> str:
    before, after = row.get("new_share_before_align"), row.get("new_share")
    return percent(after) if before is None else f"{percent(before)} -> {percent(after)}"


def _seconds(row: Row) -> str:
    spent = row.get("seconds")
    total = sum(value or 0 for value in spent.values()) if isinstance(spent, Mapping) else spent
    return number(total, 1 if total is None or total < 1000 else 0)


COLUMNS = (
    Column("phase", 5, lambda row: str(row.get("phase", "-"))),
    Column("seen", 4, lambda row: str(row.get("classes_seen", "-")), "number of classes learned so far"),
    Column("all", 5, lambda row: number(row.get("top1")), "accuracy on all classes seen, %"),
    Column("old", 5, lambda row: number(row.get("old_top1")), "accuracy on the classes of earlier phases, %"),
    Column("new", 5, lambda row: number(row.get("new_top1")), "accuracy on the classes of this phase, %"),
    Column("bal", 5, lambda row: number(row.get("balanced_top1")), "balanced: mean of the classes' accuracies, %"),
    Column("top5", 5, lambda row: number(row.get("top5")), "the right class is among the five likeliest, %"),
    Column("means", 5, lambda row: number(row.get("nme_top1")), "accuracy if the nearest class mean decides (NME), %"),
    Column("gamma", 5, lambda row: number(row.get("gamma"), 3), "factor by which aligning scaled the new classes"),
    Column("named new", 13, _new_share, "predictions that name a new class, before -> after aligning, %"),
    Column("fair", 5, lambda row: percent(row.get("fair_share")), "images that are of a new class, %"),
    Column("sec", 5, _seconds, "seconds that the phase took"),
)  # fmt: skip


def columns_of(results: Results) -> list[Column]:
    """Returns the columns that have something to say: without those that are empty, or the same as "all", throughout.

    results: the content of results.json.
    """
    rows = results.get("phases", [])
    texts = {column.title: [column.cell(row) for row in rows] for column in COLUMNS}
    empty = [title for title, cells in texts.items() if set(cells) <= {"-"}]
    if texts["bal"] == texts["all"]:
        empty.append("bal")
    return [column for column in COLUMNS if column.title not in empty]


def legend(columns: Sequence[Column]) -> list[str]:
    """Returns one line for each column with a meaning: its title, aligned, and what it is."""
    width = max((len(column.title) for column in columns), default=0)
    return [f"{column.title:<{width}}  {column.meaning}" for column in columns if column.meaning]


def summary_lines(results: Results) -> list[str]:
    """Returns three aligned lines: average incremental accuracy, last accuracy, forgetting; "-" if missing.

    For a run with validation images (data.validation) more lines say what it reached on those, or that all is on them;
    for one that extends another, how many old classes are tested on exemplars.
    """
    kept = results.get("validation") or {}
    more = (
        ("average on validation images", kept.get("average_incremental_accuracy"), "%"),
        ("last on validation images", kept.get("last_accuracy"), "%"),
    )
    figures = (
        ("average incremental accuracy", results.get("average_incremental_accuracy"), "%"),
        ("last accuracy", results.get("last_accuracy"), "%"),
        ("forgetting", results.get("forgetting"), "points"),
        *(more if kept else ()),
    )
    lines = [
        f"{name:<28}  {number(value):>5}" + (f" {unit}" if value is not None else "") for name, value, unit in figures
    ]
    if on_validation_images(results):
        lines.append("all of it on validation images; the test images are unseen")
    if results.get("held_out"):
        lines.append(f"of the old classes, {on_exemplars(results)}")
    return lines


def on_validation_images(results: Results) -> bool:
    """Returns whether all accuracies of a run are of validation images (data.tests_on), and none of test images."""
    return ((results.get("config") or {}).get("data") or {}).get("tests_on") == "validation"


def on_exemplars(results: Results) -> str:
    """Returns in words how many old classes of an extended run have no test images of their own. It has such ones."""
    return f"{len(results['held_out'])} tested on exemplars that were trained on before: these figures are too high"


def phase_table(results: Results) -> str:
    """Returns a legend, the phases and the summary as plain text, without a newline at the end."""
    columns = columns_of(results)
    titles = " ".join(column.title.rjust(column.width) for column in columns)
    rows = [" ".join(column.cell(row).rjust(column.width) for column in columns) for row in results.get("phases", [])]
    rule = "-" * len(titles)
    return "\n".join([*legend(columns), "", titles, rule, *rows, rule, *summary_lines(results)])


def rich_table(results: Results) -> Table:
    """Returns the phases as a table for a terminal of 80 columns or more."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, header_style="bold")
    columns = columns_of(results)
    for column in columns:
        style = "bold" if column.title == "all" else None
        table.add_column(column.title, justify="right", no_wrap=True, min_width=column.width, style=style)
    for row in results.get("phases", []):
        table.add_row(*(column.cell(row) for column in columns))
    return table


def markdown(results: Results) -> str:
    """Returns a Markdown document with the phases, the summary, and the configuration and versions of the run."""
    lines = [f"# {title(results)}", "", _cells(column.title for column in COLUMNS)]
    lines.append(_cells("---:" for _ in COLUMNS))
    lines += [_cells(column.cell(row) for column in COLUMNS) for row in results.get("phases", [])]
    lines += ["", *(f"- {column.title}: {column.meaning}" for column in COLUMNS if column.meaning), ""]
    lines += ["- " + " ".join(line.split()) for line in summary_lines(results)]
    return "\n".join([*lines, "", "## Recipe", "", *_recipe(results)]) + "\n"


def title(results: Results) -> str:
    """Returns "METHOD, BACKBONE, DATA", such as "wa, resnet32, cifar100", without those that the results lack."""
    config = results.get("config") or {}
    backbone = (config.get("model") or {}).get("backbone")
    data = (config.get("data") or {}).get("name")
    return ", ".join(str(part) for part in (results.get("method"), backbone, data) if part)


def _recipe(results: Results) -> list[str]:
    """Returns Markdown lines with all that is needed to repeat the run: versions, seed, class order, configuration."""
    facts = {"seed": results.get("seed"), **(results.get("environment") or {})}
    lines = ["- " + ", ".join(f"{key} {value}" for key, value in facts.items() if value is not None)]
    lines += _classes(results)
    for name, table in (results.get("config") or {}).items():
        lines.append(f"- `[{name}]` " + _inline(table))
    return lines


def _classes(results: Results) -> list[str]:
    """Returns one Markdown line a phase, with its classes: "- classes of phase 0: 68 `road`, 56 `palm_tree`"."""
    order = results.get("class_order") or []
    names = results.get("class_names") or [None] * len(order)  # results of an older version have no names
    texts = [str(index) + ("" if name is None else f" {_code(name)}") for index, name in zip(order, names, strict=True)]
    lines = []
    for row in results.get("phases", []):
        own = texts[row["classes_seen"] - row["num_new"] : row["classes_seen"]]
        lines.append(f"- classes of phase {row['phase']}: {', '.join(own)}")
    return lines if order else []


def _code(text: str) -> str:
    """Returns text as Markdown code on one line, whatever characters it has."""
    text = printable(text)
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def _inline(table: Any) -> str:
    """Returns a table of the configuration on one line, with tables inside it in braces; another value as code."""
    if not isinstance(table, Mapping):
        return f"`{table}`"
    pairs = (
        f"{key} = {{ {_inline(value)} }}" if isinstance(value, Mapping) else f"{key} = `{value}`"
        for key, value in table.items()
        if value is not None
    )
    return ", ".join(pairs)


def _cells(texts: Sequence[str] | Any) -> str:
    return "| " + " | ".join(texts) + " |"
