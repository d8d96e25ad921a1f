"""Measures and suites: what a model writes or answers, and how well."""


class SuiteError(ValueError):
    """A suite, setting or file that is not there or makes no sense."""
