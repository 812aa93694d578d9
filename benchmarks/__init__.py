"""Measurements, one module for each question. results/ has the figures, with the conditions of the measurement.

In all modules `options` are the parsed flags of the command line, and `arguments` are its words, None for those of this
process. The folders have helpers that measure nothing by themselves.
"""
