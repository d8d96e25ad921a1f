"""Measures and suites: what a model writes or answers, and how well."""

from trimtab.common.errors import UserError

SAMPLES, FACTS, JUDGEMENTS, RUNS = "samples.jsonl", "evaluation.json", "judgements.jsonl", "runs.jsonl"
"""files of an evaluation: answers, what it is and its numbers, what a judge said, and what agents did"""


class SuiteError(UserError):
    """A suite, setting or file that is not there or makes no sense."""
