"""Runs of one recipe with several seeds: means with intervals, and paired differences between recipes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from trimtab.metrics.intervals import Interval, student_mean
from trimtab.report.comparing import last, obstacles, teacher_obstacles
from trimtab.report.measures import (
    FORWARD_KL,
    MEASURES,
    PASS_AT_1,
    PERPLEXITY,
    PREFERENCE,
    REWARD_LOSS,
    Measure,
    number,
    span,
)
from trimtab.report.reading import Run
from trimtab.report.words import by_setting

RANKED = (PASS_AT_1, PREFERENCE, FORWARD_KL, PERPLEXITY, REWARD_LOSS)
"""by which recipes are ranked: the first that all have"""


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds alone."""

    name: str
    runs: list[Run]

    @property
    def seeds(self) -> list[str]:
        return [_seed(run) for run in self.runs]


def groups(runs: Sequence[Run]) -> list[Group]:
    """The runs by recipe, in their order; none where no recipe has two seeds."""
    found = [Group(_name(of), of) for of in by_setting(list(runs))]
    if all(len(set(group.seeds)) < 2 for group in found):
        return []
    names = [group.name for group in found]
    return [
        Group(f"{group.name} ({names[: i + 1].count(group.name)})", group.runs)
        if names.count(group.name) > 1
        else group
        for i, group in enumerate(found)
    ]


def over_seeds(group: Group, measure: Measure) -> tuple[Interval, int] | None:
    """Of the measure after training, with the number of runs; None where not every run has it."""
    ends = [last(run, measure) for run in group.runs]
    known = [end.estimate for end in ends if end is not None]
    return (student_mean(known), len(known)) if known and len(known) == len(ends) else None


def paired(group: Group, other: Group, measure: Measure) -> tuple[Interval, int] | None:
    """How much more `other` ends with than `group`, seed by seed, and the number of seeds that both have; None where
    there is none, or the runs may not be compared."""
    ours, theirs = (dict(reversed(list(zip(one.seeds, one.runs)))) for one in (group, other))
    differences = []
    for seed in [seed for seed in dict.fromkeys(group.seeds) if seed in theirs]:
        a, b = ours[seed], theirs[seed]
        ends = last(a, measure), last(b, measure)
        if obstacles(a, b) or (measure.against == "teacher" and teacher_obstacles(a, b)) or None in ends:
            return None
        differences.append(ends[1].estimate - ends[0].estimate)  # type: ignore[union-attr]
    return (student_mean(differences), len(differences)) if differences else None


def _name(runs: Sequence[Run]) -> str:
    """What the names have in common: mine of mine-seed0 and mine-seed1, else all of them."""
    stripped = {re.sub(r"[-_. ]?(?:seed|s)?[-_]?\d+$", "", run.name) for run in runs}
    return (
        stripped.pop()
        if len(runs) > 1 and len(stripped) == 1 and "" not in stripped
        else ", ".join(run.name for run in runs)
    )


def _seed(run: Run) -> str:
    return str(run.recipe.get("seed"))


def tables(found: Sequence[Group], measures: Sequence[Measure]) -> dict[str, Any]:
    """What the page shows of the groups: columns, and rows of (measure, cells) with (interval, number) or None."""
    shown = [(measure, [over_seeds(group, measure) for group in found]) for measure in measures]
    apart = [(measure, [paired(found[0], group, measure) for group in found[1:]]) for measure in measures]
    return {
        "groups": [(group.name, group.seeds) for group in found],
        "means": [(measure, cells) for measure, cells in shown if any(cells)],
        "differences": [(measure, cells) for measure, cells in apart if any(cells)],
    }


def headline(found: Sequence[Group]) -> str | None:
    """Which recipe ends best on average, next to which, and whether that may be chance; None where that is unknown."""
    for measure in RANKED if found else ():
        ends = [(end[0], group) for group in found if (end := over_seeds(group, measure)) is not None]
        if len(ends) < len(found) or not all(np.isfinite(end.estimate) for end, _ in ends):
            continue
        upwards = measure.better == "higher"
        (end, best), *rest = sorted(ends, key=lambda pair: pair[0].estimate, reverse=upwards)
        said = f"{number(end.estimate, measure)} {span(end, measure)}".strip()
        if not rest:
            return f"{len(best.runs)} seeds of {best.name}: {measure.title} {said}."
        (following, second), *_ = rest
        gap = paired(second, best, measure)
        sure = gap is not None and gap[0].known and gap[0].excludes_zero
        seeds = " or ".join(map(str, sorted({len(group.runs) for group in found})))
        return (
            f"Of {len(found)} recipes with {seeds} seeds each, {best.name} ends with the "
            f"{'highest' if upwards else 'lowest'} mean {measure.title}, {said}; next is {second.name} "
            f"with {number(following.estimate, measure)}{'' if sure else ', a difference that may be chance'}."
        )
    return None


def table(runs: Sequence[Run], width: int = 120) -> Table | None:
    """For a terminal: the mean over seeds of each recipe and, under it, its 95 % interval; then the paired differences
    from the first recipe. None where no recipe has two seeds."""
    found = groups(runs)
    if not found:
        return None
    columns = [measure for measure in MEASURES if any(over_seeds(group, measure) for group in found)]
    columns = columns[: max(2, (width - 26) // 10)]
    result = Table(title="mean over seeds, 95% intervals by Student's t", box=box.SIMPLE_HEAD, padding=(0, 0))
    result.add_column("recipe", overflow="fold")
    for measure in columns:
        arrow = {"lower": " ↓", "higher": " ↑", "neither": ""}[measure.better]
        result.add_column(measure.short + arrow, justify="right")
    result.add_column("seeds", justify="right")
    for group in found:
        cells = [_cell(over_seeds(group, measure), measure) for measure in columns]
        result.add_row(Text(group.name), *cells, Text(str(len(group.runs))))
    for group in found[1:]:
        gaps = [paired(found[0], group, measure) for measure in columns]
        cells = [_cell(gap, measure, signed=True) for gap, measure in zip(gaps, columns)]
        number_of = max((gap[1] for gap in gaps if gap is not None), default=0)
        result.add_row(Text(f"{group.name} minus {found[0].name}, paired"), *cells, Text(str(number_of)), style="dim")
    return result


def _cell(value: tuple[Interval, int] | None, measure: Measure, signed: bool = False) -> Text:
    if value is None:
        return Text("–")
    ends = span(value[0], measure, signed)
    return Text.assemble(number(value[0].estimate, measure, signed), ("\n" + ends if ends else "", "dim"))
