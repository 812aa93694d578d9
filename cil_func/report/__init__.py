"""Shows a run to a person, from its events and results alone. Nothing here reads or writes a run's files.

console.py            shows a run while it goes on: chooses one of two consoles
base_console.py       what both consoles share
plain_console.py      lines of text, for files and logs
terminal_console.py   a live bar, on a terminal
lines.py              the lines that both consoles print
time_left.py          the estimate that both consoles show
tables.py             the table of phases: as plain text, as Markdown, and for a terminal
contents.py           all files of a finished run's report/ folder, as bytes
figures.py            the pictures among them
alignment.py          the picture of what aligning did
number_places.py      where the numbers of a picture stand
axes.py               what the pictures share

An event is a dict whose key "event" names its kind; metrics.jsonl has one a line, all but the kind "progress".
`results` is the content of results.json, and a row is an entry of its "phases".

`python -m cil_func report DIR` draws a run's report again.
"""
