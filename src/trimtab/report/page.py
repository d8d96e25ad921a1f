"""Write the page: one run, or several side by side."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from trimtab.common.count import count
from trimtab.common.files import dumps, write_atomic
from trimtab.metrics.intervals import Interval
from trimtab.report import labels, maps, rollouts, seeds
from trimtab.report.comparing import (
    change,
    difference,
    first,
    group_name,
    last,
    start_name,
    teacher_value,
    teachers,
    untrained,
    untrained_value,
)
from trimtab.report.curves import COLOURS, curves
from trimtab.report.html import template
from trimtab.report.measures import MEASURES, Measure, digits, number, span, verdict
from trimtab.report.reading import ReportError, Run, distinct_names, load, page_of
from trimtab.report.sweeps import Sweep, against_option, ordered, sweeps
from trimtab.report.words import (
    cautions,
    duration,
    flatten,
    headline_of_many,
    headline_of_one,
    method_name,
    other_changes,
    student_name,
    teacher_name,
)


def write(folders: Sequence[Path], output: Path | None = None, suites: Sequence[Any] = ()) -> Path:
    """Write one HTML file that needs no network: a report of one run, or a comparison of several.

    Args:
        folders: run folders; the first one is what the others are compared with.
        output: where to write; `report.html` in the folder of a single run, `comparison.html` in the common parent
            of several, if not given. An existing file is replaced at once or, on an error, not at all.
        suites: what `trimtab.report.evaluation.sections` made of evaluations to show on the same page.

    Returns:
        The file that was written.

    Raises:
        ReportError: if there is no folder, or one is no run folder.
    """
    if not folders:
        raise ReportError("no run folder given; name at least one that `trimtab train` wrote")
    runs = distinct_names([load(Path(folder)) for folder in folders])
    place = output or page_of([run.folder for run in runs], len(runs) == 1 and not suites)
    return write_atomic(Path(place), render(runs, suites))


def render(runs: list[Run], suites: Sequence[Any] = ()) -> str:
    """The page as text."""
    shown = [measure for measure in MEASURES if any(last(run, measure) is not None for run in runs)]
    drawings = curves(runs)
    swept = sweeps(runs)
    single = len(runs) == 1
    grouped = seeds.groups(runs)
    return template("page.html").render(
        title=runs[0].name if single else "comparison of " + ", ".join(run.name for run in runs),
        single=single,
        runs=[_about(run, index) for index, run in enumerate(runs)],
        methods=_methods(runs),
        headline=headline_of_one(runs[0]) if single else seeds.headline(grouped) or headline_of_many(runs),
        sentences=other_changes(runs[0]) if single else [],
        measures=shown,
        held_out=_held_out_of_one(runs[0], shown) if single else _held_out_of_many(runs, shown),
        against_first=[] if single else _against_first(runs, shown),
        cautions=cautions(runs),
        curves=[(curve, Markup(curve.svg)) for curve in drawings],  # numbers only: no text of a user is in there
        sweeps=[_sweep(sweep, shown, runs, number) for number, sweep in enumerate(swept)],
        prompts=_prompts(ordered(runs, swept)),
        tables=[
            (title, run.name, _table(rows))
            for run in runs
            for title, rows in {**run.tables, **rollouts.tables(run)}.items()
        ],
        maps=[(run.name, maps.shown(run)) for run in runs if run.maps],
        rollouts=[(run.name, rollouts.shown(run)) for run in runs if run.rollouts],
        data=_side_by_side([labels.counted(run.data) for run in runs]),
        signature=_side_by_side([dict(run.signature) for run in runs]),
        recipe_differences=[]
        if single
        else [row for row in _side_by_side([flatten(run.recipe) for run in runs]) if row[2]],
        over_seeds=_over_seeds(grouped, shown),
        suites=suites,
        recipes=[yaml.safe_dump(run.recipe, sort_keys=False, allow_unicode=True) for run in runs],
    )


def _about(run: Run, index: int) -> dict[str, Any]:
    if run.finished is not None:
        state = f"finished after {count(run.steps, 'step')}"
    elif run.interrupted is not None:
        state = f"interrupted at step {run.interrupted:,}"
    else:
        state = f"not finished; last logged step {run.steps:,}"
    facts = [state]
    if run.finished is not None and run.finished.get("seconds") is not None:
        facts.append(f"{duration(run.finished['seconds'])} of training")
    if run.finished is not None and run.finished.get("tokens") is not None:
        facts.append(f"{count(round(run.finished['tokens']), 'answer token')} trained")
    facts.append(f"seed {run.recipe['seed']}" if "seed" in run.recipe else "seed unknown")
    if run.processes > 1:
        facts.append(f"in {run.signature['processes'].replace(',', ' processes,', 1)}")
    facts += [f"resumed at step {step:,}" if step > 0 else "started again" for step in run.resumes]
    return {
        "name": run.name,
        "colour": f"var(--run-{index % COLOURS})",
        "dashed": index >= COLOURS,
        "method_name": method_name(run),
        "student": student_name(run),
        "teacher": teacher_name(run),
        "facts": facts,
        "finished": run.finished is not None,
        "notes": run.notes,
    }


def _methods(runs: list[Run]) -> list[tuple[str, dict[str, Any], list[str]]]:
    """[(name, what the run said about its method, runs of that method)]"""
    cards: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for run in runs:
        cards.setdefault(method_name(run), (run.method, []))[1].append(run.name)
    return [(name, about, names) for name, (about, names) in cards.items()]


def _cell(
    interval: Interval | None, measure: Measure, changed: Interval | None = None, signed: bool = False
) -> dict[str, str]:
    """A number with its interval, the change that led to it, and what the change (or a signed number) says."""
    cell = {"value": "–", "span": "", "change": "", "change_span": "", "verdict": ""}
    if interval is not None:
        cell |= {"value": number(interval.estimate, measure, signed), "span": span(interval, measure, signed)}
        cell["verdict"] = verdict(measure, interval if signed else changed)
    if changed is not None:
        cell |= {"change": number(changed.estimate, measure, True), "change_span": span(changed, measure, True)}
    return cell


def _held_out_of_one(run: Run, shown: list[Measure]) -> dict[str, Any]:
    steps = run.measured
    if not steps:
        return {"columns": [], "rows": []}
    two, has_teacher = len(steps) > 1, bool(teachers([run]))
    columns = [f"before (step {steps[0]:,})"]
    columns += [f"after (step {steps[-1]:,})", "change"] if two else []
    columns += ["teacher"] if has_teacher else []
    rows = []
    for measure in shown:
        cells = [_cell(first(run, measure), measure)]
        cells += [_cell(last(run, measure), measure), _cell(change(run, measure), measure, signed=True)] if two else []
        cells += [_cell(teacher_value(run, measure), measure)] if has_teacher else []
        rows.append((measure, cells))
    return {"columns": columns, "rows": rows}


def _held_out_of_many(runs: list[Run], shown: list[Measure]) -> dict[str, Any]:
    students, masters = untrained(runs), teachers(runs)
    columns = [group_name(start_name(group), group, students) for group in students]
    columns += [run.name for run in runs]
    columns += [group_name("teacher", group, masters) for group in masters]
    rows = []
    for measure in shown:
        cells = [_cell(untrained_value(group, measure), measure) for group in students]
        cells += [_cell(last(run, measure), measure, change(run, measure)) for run in runs]
        cells += [_cell(teacher_value(group[0], measure), measure) for group in masters]
        rows.append((measure, cells))
    return {"columns": columns, "rows": rows}


def _against_first(runs: list[Run], shown: list[Measure]) -> list[tuple[Measure, list[dict[str, str]]]]:
    rows = [
        (measure, [_cell(difference(runs[0], run, measure), measure, signed=True) for run in runs[1:]])
        for measure in shown
    ]
    return [(measure, cells) for measure, cells in rows if any(cell["value"] != "–" for cell in cells)]


def _over_seeds(found: Sequence[seeds.Group], shown: list[Measure]) -> dict[str, Any]:
    """Means of the recipes, and paired differences from the first, as cells."""

    def cell(value: tuple[Interval, int] | None, measure: Measure, signed: bool) -> dict[str, str]:
        return _cell(value and value[0], measure, signed=signed) | {"number": str(value[1]) if value else ""}

    if not found:
        return {}
    parts = seeds.tables(found, shown)
    return {
        "groups": parts["groups"],
        "means": [(measure, [cell(one, measure, False) for one in cells]) for measure, cells in parts["means"]],
        "differences": [
            (measure, [cell(one, measure, True) for one in cells]) for measure, cells in parts["differences"]
        ],
    }


def _sweep(sweep: Sweep, shown: list[Measure], runs: list[Run], number: int) -> dict[str, Any]:
    drawn = [(measure, against_option(sweep, measure, runs, f"sweep {number} {measure.key}")) for measure in shown]
    return {
        "option": sweep.option,
        "method": method_name(sweep.runs[0]),
        "names": [run.name for run in sweep.runs],
        "figures": [(measure, Markup(svg)) for measure, svg in drawn if svg],  # numbers and the option's name
    }


def _table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Columns, and cells with "–" where a row lacks one."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return list(map(labels.label, columns)), [
        [_shown(row[key]) if key in row else "–" for key in columns] for row in rows
    ]


def _prompts(labelled: list[tuple[Run, str]]) -> list[tuple[str, list[tuple[str, str | None]]]]:
    """[(prompt, [(column, text or None)])]: before, then each run after, under its name and label."""
    before, after = [], []
    runs = [run for run, _ in labelled]
    for run in runs:
        steps = list(run.generations)
        before.append((steps[0], dict(run.generations[steps[0]])) if steps else (0, {}))
        after.append((steps[-1], dict(run.generations[steps[-1]])) if len(steps) > 1 else (None, {}))
    prompts = dict.fromkeys(prompt for _, texts in before + after for prompt in texts)
    rows = []
    for prompt in prompts:
        first_texts = [
            (run.name, step, texts[prompt]) for run, (step, texts) in zip(runs, before, strict=True) if prompt in texts
        ]
        columns: list[tuple[str, str | None]] = []
        if len({(step, text) for _, step, text in first_texts}) == 1:
            columns.append((f"before (step {first_texts[0][1]:,})", first_texts[0][2]))
        else:
            columns += [(f"{name} before (step {step:,})", text) for name, step, text in first_texts]
        for (run, label), (step, texts) in zip(labelled, after, strict=True):
            name = "after" if len(runs) == 1 else f"{run.name}: {label}" if label else run.name
            columns.append((name if step is None else f"{name} (step {step:,})", texts.get(prompt)))
        rows.append((prompt, columns))
    return rows


def _side_by_side(columns: list[dict[str, Any]]) -> list[tuple[str, list[str], bool]]:
    """[(key, a value for each run, whether they differ)]"""
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = [(key, [_plain(column[key]) if key in column else "–" for column in columns]) for key in keys]
    return [(key, values, len(set(values)) > 1) for key, values in rows]


def _shown(entry: Any) -> str:
    return digits(entry) if isinstance(entry, float) else f"{entry:,}" if type(entry) is int else _plain(entry)


def _plain(entry: Any) -> str:
    return entry if isinstance(entry, str) else dumps(entry, default=str)
