"""Sweeps: runs of one method that differ in a single number, with metrics against that number."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trimtab.report.comparing import last
from trimtab.report.curves import INK, drawing, is_log, run_colour
from trimtab.report.measures import Measure
from trimtab.report.reading import Run
from trimtab.report.words import flatten, setting


@dataclass(frozen=True)
class Sweep:
    option: str
    """as `trimtab show METHOD` calls it"""
    runs: list[Run]
    """by ascending value; runs of one value differ in their seeds"""
    values: list[float]


def sweeps(runs: Sequence[Run]) -> list[Sweep]:
    """Each group of runs whose recipes are the same but for one numeric option, seeds and names aside."""
    found = []
    for option in dict.fromkeys(key for run in runs for key in _numbers(run)):
        groups: dict[str, list[Run]] = {}
        for run in runs:
            if option in _numbers(run):
                groups.setdefault(setting(run, f"options.{option}"), []).append(run)
        for group in groups.values():
            ascending = sorted(group, key=lambda run: _numbers(run)[option])
            values = [_numbers(run)[option] for run in ascending]
            if len(set(values)) > 1:
                found.append(Sweep(option, ascending, values))
    return found


def ordered(runs: Sequence[Run], found: Sequence[Sweep]) -> list[tuple[Run, str]]:
    """The runs, those of a sweep among themselves by its option, each with its place in its first sweep in words."""
    result, labels = list(runs), {}
    for sweep in found:
        names = {run.name for run in sweep.runs}
        if not names & labels.keys():
            places = [i for i, run in enumerate(result) if run.name in names]
            for place, run in zip(places, sweep.runs, strict=True):
                result[place] = run
            pairs = zip(sweep.runs, sweep.values, strict=True)
            labels |= {run.name: f"{sweep.option} {value:g}" for run, value in pairs}
    return [(run, labels.get(run.name, "")) for run in result]


def against_option(sweep: Sweep, measure: Measure, runs: Sequence[Run], salt: str) -> str:
    """SVG of a measure after training against the option, with intervals where there are any.

    Args:
        sweep: the runs to draw.
        measure: on the vertical axis.
        runs: all runs of the page, whose places give the colours.
        salt: see `drawing`.

    Returns:
        "" where nothing finite was measured.
    """
    from matplotlib.ticker import NullFormatter, NullLocator

    colours = {run.name: run_colour(index) for index, run in enumerate(runs)}
    ends = [(value, run, last(run, measure)) for value, run in zip(sweep.values, sweep.runs, strict=True)]
    points = [(value, run, end) for value, run, end in ends if end is not None and np.isfinite(end.estimate)]
    if not points:
        return ""
    estimates = np.array([end.estimate for _, _, end in points])

    def paint(axes: Any) -> None:
        values = sorted({value for value, _, _ in points})
        if values[0] > 0 and values[-1] / values[0] >= 10:
            axes.set_xscale("log")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_minor_formatter(NullFormatter())
        if len(values) <= 8:
            axes.set_xticks(values, [f"{value:g}" for value in values])
        means = [np.mean([end.estimate for x, _, end in points if x == value]) for value in values]
        axes.plot(values, means, color=INK, linewidth=1.2)
        for value, run, end in points:
            if end.known:
                axes.plot([value, value], [end.low, end.high], color=colours[run.name], linewidth=1.8)
            axes.plot([value], [end.estimate], "o", color=colours[run.name], markersize=5, clip_on=False)

    return drawing(salt, sweep.option, is_log(estimates), paint)


def _numbers(run: Run) -> dict[str, float]:
    """The options that are numbers."""
    options = run.recipe.get("options")
    flat = flatten(options) if isinstance(options, dict) else {}
    return {key: x for key, x in flat.items() if isinstance(x, int | float) and not isinstance(x, bool)}
