"""Makes the parts of an HTML page that stands alone: all of it is in one file, and nothing is fetched."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cil_func.errors import printable
from cil_func.report import tables
from cil_func.report.style import CSS, SCRIPT


class Section(NamedTuple):
    """A section of a page. key: its anchor. title: its heading, as text. parts: HTML; a section without any is left
    out."""

    key: str
    title: str
    parts: Sequence[str]


def text(value: Any) -> str:
    """Returns a value as HTML text on one line."""
    return html.escape(printable(str(value)))


def document(title: str, intro: Sequence[str], sections: Iterable[Section]) -> bytes:
    """Returns a whole page in UTF-8, with a list of its sections. title: as text. intro: HTML under the title."""
    shown = [section for section in sections if section.parts]
    links = "".join(f'<a href="#{section.key}">{text(section.title)}</a> ' for section in shown)
    body = "\n".join(
        f'<section id="{section.key}"><h2>{text(section.title)}</h2>\n' + "\n".join(section.parts) + "</section>"
        for section in shown
    )
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{text(title)}</title><link rel="icon" href="data:,"><style>{CSS}</style></head>\n<body>'
        f"<h1>{text(title)}</h1>\n<nav>{links}</nav>\n" + "\n".join(intro) + f"\n{body}\n"
        f"<script>{SCRIPT}</script></body></html>\n"
    )
    return page.encode("utf-8", "replace")


def paragraph(content: str) -> str:
    """Returns a paragraph. content: as text."""
    return f"<p>{text(content)}</p>"


def tiles(values: Mapping[str, str]) -> str:
    """Returns a row of boxes, each a value over its name."""
    return '<ul class="tiles">' + "".join(f"<li><b>{text(v)}</b>{text(k)}</li>" for k, v in values.items()) + "</ul>"


def figure(svg: bytes | None, caption: str) -> list[str]:
    """Returns a figure with its caption as a list of one part; [] for None. svg: of `axes.svg`. caption: as text."""
    if svg is None:
        return []
    label = text(caption)
    drawn = svg.decode().replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return [f"<figure>{drawn}<figcaption>{label}</figcaption></figure>"]


def table(
    titles: Sequence[str], rows: Iterable[Sequence[Any]], *, words: Sequence[str] = (), own: str | None = None
) -> str:
    """Returns a table that sorts by a click on a title.

    rows: values; numbers get one decimal if they are floats, None becomes "-". words: the titles of columns of text,
    which stand on the left. own: the first cell of the row that is emphasised; None: no row.
    """
    kinds = [' class="text"' if title in words else "" for title in titles]
    head = "".join(
        f'<th{kind} scope="col"><button type="button">{text(title)}</button></th>'
        for title, kind in zip(titles, kinds, strict=True)
    )
    body = "\n".join(
        f"<tr{' class=own' if own is not None and row[0] == own else ''}>"
        + "".join(f"<td{kind}>{text(_shown(value))}</td>" for value, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table class="sorts"><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def legend(meanings: Mapping[str, str]) -> str:
    """Returns a list of names and what they mean."""
    pairs = "".join(f"<dt>{text(name)}</dt><dd>{text(meaning)}</dd>" for name, meaning in meanings.items())
    return f'<dl class="legend">{pairs}</dl>'


def commands(lines: Mapping[str, str]) -> str:
    """Returns commands to copy, each under a comment. lines: {command: comment}."""
    return "<pre>" + "\n".join(f"# {text(comment)}\n{text(line)}" for line, comment in lines.items()) + "</pre>"


def picture(kind: str, content: bytes, label: str) -> str:
    """Returns an image inside the page. kind: its MIME type. content: the bytes of its file. label: as text."""
    return f'<img alt="{text(label)}" src="data:{kind};base64,{base64.b64encode(content).decode()}">'


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns {dotted key: value} of tables inside tables and lists of tables. An empty table stays, as {}."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
            value = {str(index): each for index, each in enumerate(value)}
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _shown(value: Any) -> str:
    return tables.number(value) if value is None or isinstance(value, float) else str(value)
