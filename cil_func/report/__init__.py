"""Shows a run to a person, from its events and results alone. Nothing here reads or writes a run's files.

console.py            shows a run while it goes on: chooses one of two consoles
base_console.py       what both consoles share
plain_console.py      lines of text, for files and logs
terminal_console.py   a live bar, on a terminal
lines.py              the lines that both consoles print
time_left.py          the estimate that both consoles show
tables.py             the table of phases: as plain text, as Markdown, and for a terminal
material.py           what a report is made of: the content of a run's files
contents.py           all files of a run's report/ folder, as bytes
page.py               one of them, report.html: the figures and tables of a run in one page
several.py            the report of several runs: curves, a table as Markdown, CSV and LaTeX, a page
cautions.py           whether the runs of a table were measured on the same images, in the same phases
markup.py             the parts of a page: tables, figures, sections
style.py              its style sheet and its script
published.py          the published results of published.toml, and which runs can be compared with them
figures.py            the pictures of accuracy and the accuracy matrix
by_class.py           the pictures of confusion, of single classes and of what is forgotten
alignment.py          the pictures of what aligning did
curves.py             the pictures of losses, rates and norms over the epochs
reliability.py        the picture of confidence and accuracy
number_places.py      where the numbers of a picture stand
axes.py               what the pictures share

An event is a dict whose key "event" names its kind; metrics.jsonl has one a line, all but the kind "progress".
`results` is the content of results.json, and a row is an entry of its "phases".

`python -m cil_func report RUN... [--out DIR]` draws a run's report again, or compares several runs.
"""
