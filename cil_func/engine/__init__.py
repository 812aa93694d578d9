"""How a method is trained: the pure step, its compilation, and the loops over batches."""
