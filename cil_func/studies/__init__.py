"""Many runs, and runs beside others: sweeps and their tables, what differs between two of them."""
