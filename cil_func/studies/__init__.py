"""Many runs, and runs beside others: sweeps and their tables, what differs between two of them.

sweep.py, sweep_plan.py, sweep_jobs.py, sweep_table.py  the command sweep; see sweeps.md
finished_runs.py  whether finished runs that a study takes are those it asks for, on the same images
search.py, search_space.py, search_study.py, search_table.py  sweep --search: values chosen by validation images
reproduce.py     the command reproduce; see reproduce.md
published_rows.py, recorded.py, recorded.json  published rows as configurations; the recorded runs beside them
diff.py          the command diff; see diff.md
methods.py, numbers_by_method.py  the command methods; see methods.md
differences.py   which keys differ between two configurations, and what that is known to be worth
worth.toml       what is known, each with its source
"""
