"""Several processes that share each batch: how it is split, how sums are added up, how a failure is noticed."""
