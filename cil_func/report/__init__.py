"""What a person sees of a run, made from its events and its `results.json` alone.

console.py     the run as it goes: a live bar on a terminal, plain lines elsewhere
lines.py       the lines that both kinds of console print
time_left.py   the estimate that the console shows
tables.py      the table of phases, as plain text, Markdown and for rich
labels.py      where the numbers of a figure stand
figures.py     the finished run's pictures and table.md in its report/ folder

`python -m cil_func.report DIR` draws a run's report again.
"""
