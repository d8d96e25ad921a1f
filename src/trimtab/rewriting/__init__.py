"""Clean-Eval: a test set in other words."""
