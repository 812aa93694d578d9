"""The training of a phase: the pure step, how it is compiled, epochs over batches, what is measured."""
