"""The table for the terminal."""

from collections.abc import Sequence
from itertools import accumulate

from rich import box
from rich.table import Table
from rich.text import Text

from trimtab.metrics.intervals import Interval
from trimtab.report.comparing import (
    group_name,
    last,
    obstacles,
    start_name,
    teacher_obstacles,
    teacher_value,
    teachers,
    untrained,
    untrained_value,
)
from trimtab.report.measures import MEASURES, Measure, digits, number, span
from trimtab.report.reading import Run, distinct_names
from trimtab.report.words import unfinished

OTHER_COLUMNS, MEASURE_COLUMN = 26, 9
"""Characters that a line needs for the name, the seconds and the steps, and for each measure at least."""


def table(runs: Sequence[Run], width: int = 120) -> Table:
    """One row per run after training, preceded by the initial policy and followed by the teacher, if measured.

    Under each estimate stands its 95% interval over held-out rows, where rows were measured. The caption says which
    runs may not be compared with the first, and which measures a terminal of this `width` has no room for.
    """
    runs = distinct_names(runs)
    columns = [m for m in MEASURES if m.key != "top1" and any(last(run, m) is not None for run in runs)]
    widths = {measure: _widths(runs, measure) for measure in columns}
    ends = list(accumulate((1 + least for least, _ in widths.values()), initial=OTHER_COLUMNS))
    room = max(2, sum(end <= width for end in ends[1:]))
    columns, left_out = columns[:room], columns[room:]
    tight = OTHER_COLUMNS + sum(1 + widths[measure][1] for measure in columns) > width
    result = Table(title="held-out data, 95% intervals over rows", caption=_caption(runs, left_out))
    result.caption_justify, result.box, result.padding = "left", box.SIMPLE_HEAD, (0, 0)
    result.add_column("run", overflow="fold")
    for measure in columns:
        arrow = {"lower": " ↓", "higher": " ↑", "neither": ""}[measure.better]
        least = widths[measure][0]
        result.add_column(measure.short + arrow, justify="right", min_width=least, width=least if tight else None)
    result.add_column("train seconds", justify="right", min_width=7)
    result.add_column("steps", justify="right", min_width=5)
    students, masters = untrained(runs), teachers(runs)
    for group in students:
        name = group_name(start_name(group), group, students)
        _add(result, name, {measure: untrained_value(group, measure) for measure in columns}, "–", "0", style="dim")
    for run in runs:
        seconds = (run.finished or {}).get("seconds")
        trained = "–" if seconds is None else digits(seconds)
        steps = f"{run.steps:,}"
        if run.measured and run.measured[-1] != run.steps:
            steps += f"\nmeasured at {run.measured[-1]:,}"
        _add(result, run.name, {measure: last(run, measure) for measure in columns}, trained, steps)
    for group in masters:
        name = group_name("teacher", group, masters)
        _add(result, name, {measure: teacher_value(group[0], measure) for measure in columns}, "–", "–", style="dim")
    return result


def _widths(runs: Sequence[Run], measure: Measure) -> tuple[int, int]:
    """Characters of the longest word in a measure's column, and of its longest line."""
    found = [last(run, measure) for run in runs]
    found += [untrained_value(group, measure) for group in untrained(runs)]
    found += [teacher_value(group[0], measure) for group in teachers(runs)]
    lines = [
        line
        for text in (f"{measure.short} ↓", *(_cell(one, measure).plain for one in found))
        for line in text.split("\n")
    ]
    return max(MEASURE_COLUMN, *(len(word) for line in lines for word in line.split())), max(map(len, lines))


def _add(
    result: Table, name: str, values: dict[Measure, Interval | None], seconds: str, steps: str, style: str | None = None
) -> None:
    cells = [_cell(found, measure) for measure, found in values.items()]
    result.add_row(Text(name), *cells, Text(seconds), Text(steps), style=style)


def _cell(interval: Interval | None, measure: Measure) -> Text:
    if interval is None:
        return Text("–")
    ends = span(interval, measure)
    return Text.assemble(number(interval.estimate, measure), ("\n" + ends if ends else "", "dim"))


def _caption(runs: Sequence[Run], left_out: Sequence[Measure]) -> Text:
    sizes = sorted({len(run.heldout.get(run.measured[-1], {})) if run.measured else 0 for run in runs})
    lines = ["↓ lower is better, ↑ higher is better"]
    lines += [f"held-out rows: {' or '.join(map(str, sizes))}; the signature of each run is in its signature.txt"]
    lines += [unfinished(run) for run in runs if run.finished is None]
    if left_out:
        lines.append(f"no room here for {', '.join(measure.short for measure in left_out)}; the report has it")
    for run in runs[1:]:
        why = obstacles(runs[0], run)
        if why:
            lines.append(f"{run.name} cannot be compared with {runs[0].name}: {'; '.join(why)}")
        elif of_teacher := teacher_obstacles(runs[0], run):
            lines.append(
                f"{run.name}, against the teacher, cannot be compared with {runs[0].name}: {'; '.join(of_teacher)}"
            )
    return Text("\n".join(lines))
