"""Measures and suites: what a model writes or answers, and how well."""

from trimtab.common.errors import UserError


class SuiteError(UserError):
    """A suite, setting or file that is not there or makes no sense."""
