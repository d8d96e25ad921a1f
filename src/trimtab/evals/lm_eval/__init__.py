"""Suites as tasks of lm-evaluation-harness: a folder for its `--include_path`. Nothing here imports that package."""
