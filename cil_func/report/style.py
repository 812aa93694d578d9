"""The style sheet and the script of report.html. The script sorts a table by the column whose title is clicked."""

CSS = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; color: #1a1a1a; background: #fff; margin: 0 auto;
  max-width: 62rem; padding: 1rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; margin: 0.5rem 0; } h2 { font-size: 1.25rem; margin: 2.5rem 0 0.5rem; border-top: 1px solid
  #ccc; padding-top: 1rem; }
nav a { margin-right: 0.9rem; } a { color: #005a8f; }
.tiles { display: flex; flex-wrap: wrap; gap: 0.75rem; margin: 1rem 0; padding: 0; list-style: none; }
.tiles li { border: 1px solid #bbb; border-radius: 6px; padding: 0.4rem 0.9rem; }
.tiles b { display: block; font-size: 1.35rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; margin: 0.75rem 0; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.6rem; text-align: right; vertical-align: top; }
th { border-bottom: 2px solid #666; white-space: nowrap; } .text { text-align: left; overflow-wrap: anywhere; }
tr.own td { font-weight: bold; }
th button { font: inherit; font-weight: bold; background: none; border: 0; padding: 0; cursor: pointer; }
th[aria-sort=ascending] button::after { content: " \\25B2"; } th[aria-sort=descending] button::after { content:
  " \\25BC"; }
figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; }
figcaption { color: #444; max-width: 46rem; font-size: 0.93rem; }
dl.legend { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; font-size: 0.9rem; color: #444; }
dl.legend dt { font-weight: bold; } dl.legend dd { margin: 0; }
pre { background: #f3f3f3; padding: 0.6rem 0.8rem; overflow-x: auto; font-size: 0.88rem; }
.exemplars div { display: flex; flex-wrap: wrap; align-items: center; gap: 3px; margin: 4px 0; }
.exemplars span { width: 11rem; overflow-wrap: anywhere; font-size: 0.88rem; }
.exemplars img { width: 48px; height: 48px; object-fit: contain; image-rendering: pixelated; background: #eee; }
@media print { nav, th button::after { display: none; } body { max-width: none; } figure, tr { break-inside: avoid; } }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0];
  const value = (row, at) => {
    const text = row.cells[at].textContent.trim(), number = parseFloat(text.replace("~", ""));
    return text === "-" || text === "" ? null : Number.isNaN(number) ? text : number;
  };
  [...table.tHead.rows[0].cells].forEach((title, at) => title.querySelector("button").onclick = () => {
    const down = title.getAttribute("aria-sort") === "ascending";
    for (const other of title.parentNode.cells) other.removeAttribute("aria-sort");
    title.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = [...body.rows].map(row => [value(row, at), row]);
    rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null)
      : (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(b)) * (down ? -1 : 1));
    body.append(...rows.map(([, row]) => row));
  });
}
"""
