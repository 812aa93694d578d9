"""The figures of the chapters: each function takes what a chapter computed and returns a matplotlib figure.

Colours are those of `report.axes`, which differ for people with any kind of colour vision. What a colour says is also
said by a pattern, a marker or a word, so that a print in grey can be read.
"""
