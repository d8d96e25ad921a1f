"""Run folders in, one offline HTML page or one terminal table out. Imports neither torch nor transformers."""

from trimtab.metrics.intervals import Interval, bootstrap_ratio, paired_difference
from trimtab.report.labels import short
from trimtab.report.page import write
from trimtab.report.reading import ReportError, Run, load
from trimtab.report.seeds import table as seeds_table
from trimtab.report.terminal import table

__all__ = [
    "Interval",
    "ReportError",
    "Run",
    "bootstrap_ratio",
    "load",
    "paired_difference",
    "seeds_table",
    "short",
    "table",
    "write",
]
