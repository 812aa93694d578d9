"""One run and its directory: setup, plan, checkpoints, signals, the log and what a finished run leaves."""
