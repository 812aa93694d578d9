"""The comparison of two models as one HTML page that needs no other file and no script."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from cil_func.deploy.compare_text import order, signed, summary
from cil_func.report.tables import number

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .15rem .6rem; text-align: right }
th { border-bottom: 1px solid #999 } td:first-child, th:first-child { text-align: left; overflow-wrap: anywhere }
tr:nth-child(even) td { background: #f5f5f5 } pre { background: #f5f5f5; padding: .6rem; white-space: pre-wrap }
.worse { color: #a3261b } .better { color: #1b6e3c } figure { display: inline-block; margin: 0 1rem 1rem 0 }
"""
_BEFORE, _AFTER, _LINE = "#7a8ba3", "#1f5fa8", "#bbb"
_SIDE = 220  # pixels of a reliability diagram


def page(result: Mapping[str, Any]) -> str:
    """Returns the text of the page. result: from `comparison.compare`, with "models", their paths."""
    pairs = result["taken"]
    taken = [(each["from"], each["by"], str(each["images"]), str(each["were_right"])) for each in pairs]
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><meta charset="utf-8"><title>Comparison of two models</title>',
            f"<style>{_STYLE}</style>",
            "<h1>What got better and worse</h1>",
            "<p>"
            + "<br>".join(f"{key}: <code>{_text(path)}</code>" for key, path in result["models"].items())
            + "</p>",
            f"<pre>{_text(chr(10).join(summary(result)))}</pre>",
            "<h2>Class by class</h2>",
            "<p>Accuracies in percent. Lost: images that were right and are wrong now; found: the other way round; to "
            "new: images that are taken for a new class now.</p>",
            _classes(sorted(result["classes"], key=order)),
            "<h2>What the new classes took</h2>" if taken else "",
            _table(("images of", "taken for", "images", "were right"), map(_cells, taken)) if taken else "",
            "<h2>Calibration</h2>",
            "<p>Images of the kept classes, by the confidence of the answer: on the diagonal, 80 % of the answers with "
            "80 % confidence are right. A larger dot stands for more images.</p>",
            *_diagrams(result["calibration"]),
            "</html>",
            "",
        ]
    )


def _text(value: Any) -> str:
    """Returns a value as text for HTML; what UTF-8 can't hold, as in odd file names, becomes a question mark."""
    return escape(str(value)).encode(errors="replace").decode()


def _cells(values: Iterable[Any]) -> list[str]:
    return [f"<td>{_text(value)}</td>" for value in values]


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a table. heading: the titles, plain text. rows: of cells that are HTML already, with their <td>."""
    head = "".join(f"<th>{_text(title)}</th>" for title in heading)
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{''.join(row)}</tr>\n" for row in rows) + "</table>"


def _classes(entries: Sequence[Mapping[str, Any]]) -> str:
    """Returns the table of classes. entries: of result["classes"], in the order of the rows."""
    heading = ("class", "", "images", "before", "after", "change", "", "lost", "found", "to new")
    return _table(heading, (_class_row(entry) for entry in entries))


def _class_row(entry: Mapping[str, Any]) -> list[str]:
    change = entry["change"]
    tone = "worse" if (change or 0) < 0 else "better" if (change or 0) > 0 else ""
    kind = "" if entry["kind"] == "kept" else entry["kind"]
    flips = ["-" if entry[key] is None else entry[key] for key in ("negative_flips", "positive_flips", "lost_to_new")]
    return [
        *_cells((entry["name"], kind, entry["images"], number(entry["before"]), number(entry["after"]))),
        f'<td class="{tone}">{signed(change)}</td>',
        f"<td>{_bar(entry['before'], entry['after'])}</td>",
        *_cells(flips),
    ]


def _bar(before: float | None, after: float | None) -> str:
    """Returns a small picture of two accuracies in percent, one dot each on a line from 0 to 100; None: no dot."""
    dots = "".join(
        f'<circle cx="{4 + value:.1f}" cy="6" r="4" fill="{colour}"/>'
        for value, colour in ((before, _BEFORE), (after, _AFTER))
        if value is not None
    )
    return f'<svg width="108" height="12"><path d="M4 6h100" stroke="{_LINE}"/>{dots}</svg>'


def _diagrams(calibration: Mapping[str, Any]) -> list[str]:
    """Returns the reliability diagrams of both models. calibration: of the result."""
    return [
        f"<figure>{_diagram(calibration['diagram'][key], colour)}<figcaption>{key}: expected calibration error "
        f"{number(calibration['kept'][key], 3)}</figcaption></figure>"
        for key, colour in (("before", _BEFORE), ("after", _AFTER))
    ]


def _diagram(bins: Sequence[Sequence[float]], colour: str) -> str:
    """Returns a reliability diagram. bins: (count, mean confidence, share that is right) each."""
    most = max((count for count, *_ in bins), default=0)
    dots = "".join(
        f'<circle cx="{_SIDE * sure:.1f}" cy="{_SIDE * (1 - right):.1f}" r="{2 + 8 * (count / most) ** 0.5:.1f}" '
        f'fill="{colour}" fill-opacity=".7"><title>{count} images: confidence {100 * sure:.0f} %, {100 * right:.0f} % '
        "right</title></circle>"
        for count, sure, right in bins
        if count
    )
    return (
        f'<svg width="{_SIDE + 24}" height="{_SIDE + 24}" viewBox="-12 -12 {_SIDE + 24} {_SIDE + 24}">'
        f'<path d="M0 0v{_SIDE}h{_SIDE}M0 {_SIDE}L{_SIDE} 0" fill="none" stroke="{_LINE}"/>{dots}</svg>'
    )
