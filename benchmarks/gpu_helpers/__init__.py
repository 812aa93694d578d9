"""The parts of `benchmarks.gpu`.

training_steps.py   steps of one and of several models, and their convolutions
whole_runs.py       the time budget, the results file, and whole runs
"""
