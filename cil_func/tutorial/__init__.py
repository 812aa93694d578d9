"""The tutorial: eight chapters that teach class-incremental learning by running this package.

    python -m cil_func tutorial                 lists the chapters
    python -m cil_func tutorial 3               runs chapter 3, prints its text and output, draws its figures
    python -m cil_func tutorial 3 --notebook    writes it as a Jupyter notebook too
    python -m cil_func tutorial 3 --markdown    writes it as a Markdown page too

A chapter is a Python file in the percent format, which editors and Jupyter read as cells. `cells` says what a chapter
may contain. `pages/` holds the chapters as they were run, to read without running anything; a test compares them. The
README beside this file lists each concept with its chapter, function, test and figure.
"""
