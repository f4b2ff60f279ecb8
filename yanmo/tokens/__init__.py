"""Documents → ids → batches."""
