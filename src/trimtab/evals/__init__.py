"""Measures and suites: what a model writes or answers, and how well."""
