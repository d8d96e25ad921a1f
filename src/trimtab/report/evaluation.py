"""The page of evaluations: metrics with intervals and baselines, differences between models, and all items."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from trimtab.common.count import count
from trimtab.common.files import dumps, records, write_atomic
from trimtab.evals import FACTS, SAMPLES, suites
from trimtab.evals.suite import Estimate, Item, SuiteError
from trimtab.metrics.intervals import Interval, mean_of
from trimtab.report import turns as by_turns
from trimtab.report.curves import COLOURS, INK, drawing, run_colour
from trimtab.report.html import template
from trimtab.report.reading import ReportError, is_run
from trimtab.report.turns import SHOWN, TrajectoryRows


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation's folder says."""

    folder: Path
    facts: dict[str, Any]
    measures: list[Estimate]
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    """item id -> its last row"""
    name: str = ""

    @property
    def suite(self) -> str:
        return self.facts["suite"]

    @property
    def title(self) -> str:
        return f"{self.suite} on {self.facts['model']}"

    @property
    def baselines(self) -> dict[str, float]:
        return self.facts.get("baselines", {})

    def value(self, name: str, group: str = "all") -> Interval | None:
        """A number, or None where it was not measured."""
        return next((one.value for one in self.measures if (one.name, one.group) == (name, group)), None)


def is_evaluation(folder: Path) -> bool:
    return (folder / FACTS).is_file()


def expand(folders: Sequence[Path]) -> list[Path]:
    """A folder that holds evaluations of several suites stands for all of them."""
    return [found for folder in folders for found in ([folder] if is_evaluation(folder) else _within(folder))]


def _within(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"*/{FACTS}"))


def split(folders: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Runs, and evaluations, with those that lie in a folder of several or of a run; what is neither counts as a run,
    whose reader says what it lacks."""
    runs = [one for one in folders if not is_evaluation(one) and (is_run(one) or not _within(one))]
    return runs, expand(folders)


def read(folder: Path) -> Evaluation:
    """Read the folder that `trimtab eval` wrote.

    Raises:
        ReportError: if it is none, or was stopped before its end.
    """
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if not facts["finished"]:
            raise ReportError(f"{folder}: the evaluation was interrupted; run its command again to resume it")
        measures = [
            Estimate(m["name"], m["group"], Interval(*(math.nan if x is None else x for x in m["value"])), m["number"])
            for m in facts["measures"]
        ]
        rows = {row["id"]: row for row in records((folder / SAMPLES).read_bytes(), "id")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, ReportError):
            raise
        raise ReportError(f"{folder}: not an evaluation ({error}); give a folder that `trimtab eval` wrote") from None
    return Evaluation(folder, facts, measures, rows, facts["model"])


def write(folders: Sequence[Path], output: Path) -> Path:
    """One HTML file that needs no network; what was there is replaced at once or, on an error, not at all.

    Args:
        folders: of evaluations; those of one suite are compared, the first of them with the others.

    Raises:
        ReportError: see `read`.
    """
    found = _named([read(folder) for folder in folders])
    if not found:
        raise ReportError("there is no evaluation to report on; give folders that `trimtab eval` wrote")
    by_suite = _by_suite(found)
    parts = [_section(name, of, number) for number, (name, of) in enumerate(by_suite.items())]
    headline = found[0].title if len(found) == 1 else f"{len(found)} evaluations: {', '.join(by_suite)}"
    text = template("evaluation.html").render(headline=headline, sections=parts, number=number)
    return write_atomic(output, text)


def sections(folders: Sequence[Path]) -> list["Section"]:
    """The same suites for the page of runs.

    Raises:
        ReportError: see `read`.
    """
    by_suite = _by_suite(_named([read(folder) for folder in folders]))
    return [_section(name, of, number) for number, (name, of) in enumerate(by_suite.items())]


def lines(parts: Sequence["Section"]) -> list[str]:
    """The first number of each evaluation."""
    return [
        f"{part.name}, {one.name}: {name} {' '.join(number(value))}".rstrip()
        for part in parts
        for i, one in enumerate(part.evaluations)
        for name, value in [_first_known(part.table, i)]
    ]


def _first_known(table: Sequence[tuple[str, list[Interval | None]]], of: int) -> tuple[str, Interval | None]:
    """The first measure that an evaluation has a number for."""
    known = ((name, value) for name, values in table if (value := values[of]) and not math.isnan(value.estimate))
    return next(known, ("nothing measured", None))


def _by_suite(found: Sequence[Evaluation]) -> dict[str, list[Evaluation]]:
    by_suite: dict[str, list[Evaluation]] = {}
    for one in found:
        by_suite.setdefault(one.suite, []).append(one)
    return by_suite


def _named(found: list[Evaluation]) -> list[Evaluation]:
    """Evaluations of one suite under names that tell them apart: the model's, with what else differs, or numbers."""
    keys = ("strength", "prompt", "mode", "decoding", "seed", "suite", "items")
    named = []
    for one in found:
        same = [other for other in found if other.suite == one.suite and other.name == one.name]
        differ = [k for k in keys if len({other.facts["signature"].get(k) for other in same}) > 1]
        said = ", ".join(f"{k} {one.facts['signature'].get(k)}" for k in differ)
        named.append(replace(one, name=f"{one.name} ({said})" if said else one.name))
    names = [one.name for one in named]
    return [
        replace(one, name=f"{one.name} [{i + 1}]" if names.count(one.name) > 1 else one.name)
        for i, one in enumerate(named)
    ]


def headline_parser(one: Evaluation) -> str | None:
    """The parser whose numbers lead: the first; None where verdicts are no accuracies."""
    named = [m.name.removesuffix(" strict") for m in one.measures if m.name.endswith(" strict")]
    return named[0] if named else None


def differences(first: Evaluation, other: Evaluation) -> tuple[Interval, int] | None:
    """Accuracy of `other` minus that of the first on their common items, bootstrapped jointly; None if undefined.

    An answer that cannot be parsed counts 0.
    """
    ours, theirs = headline_parser(first), headline_parser(other)
    if ours is None or theirs is None:
        return None
    shared = [
        key
        for key, row in first.rows.items()
        if key in other.rows
        and row["item"] == other.rows[key]["item"]
        and not row.get("error")
        and not other.rows[key].get("error")
    ]

    def values(one: Evaluation, parser: str) -> np.ndarray:
        return np.array([one.rows[key]["verdicts"][parser]["value"] or 0.0 for key in shared])

    return mean_of(values(other, theirs) - values(first, ours)), len(shared)


def number(value: Interval | None, digits: int = 3) -> tuple[str, str]:
    """An estimate, and its interval in brackets."""
    if value is None or math.isnan(value.estimate):
        return "–", ""
    span = f"[{value.low:.{digits}f}, {value.high:.{digits}f}]" if value.known else ""
    return f"{value.estimate:.{digits}f}", span


@dataclass(frozen=True)
class Section:
    """One suite on the page."""

    name: str
    summary: str
    paper: str
    evaluations: list[Evaluation]
    colours: list[str]
    table: list[tuple[str, list[Interval | None]]]
    groups: list[tuple[str, list[tuple[str, int, list[Interval | None]]]]]
    """(key, [(value, items, numbers)])"""
    headline: str | None
    baselines: dict[str, float]
    compared: list[tuple[str, Interval, int]]
    drawing: Markup
    cautions: list[str]
    items: Markup
    anchor: str
    trajectories: list[TrajectoryRows]
    """the first ones, where items are turns"""
    number_of_trajectories: int
    differences: list[tuple[str, list[tuple[str, Interval, int]]]]
    """of turns: each other evaluation, and its numbers less those of the first"""

    @staticmethod
    def number(value: Interval | None) -> tuple[str, str]:
        return number(value)

    @property
    def pages(self) -> list[str]:
        """Where every item can be read."""
        return [str(one.folder / "report.html") for one in self.evaluations]


def _section(name: str, of: list[Evaluation], index: int) -> Section:
    first = of[0]
    parser = headline_parser(first)
    names = list(dict.fromkeys(m.name for one in of for m in one.measures if m.group == "all"))
    table = [(measure, [one.value(measure) for one in of]) for measure in names]
    lead = f"{parser} strict" if parser else None
    groups: dict[str, list[tuple[str, int, list[Interval | None]]]] = {}
    for group in dict.fromkeys(m.group for one in of for m in one.measures if m.group != "all"):
        key, _, value = group.partition("=")
        own = [m for m in first.measures if m.group == group]
        shown = lead or (own[0].name if own else None)
        if shown is None:
            continue
        values = []
        for one in of:
            parser_of_one = headline_parser(one)
            values.append(one.value(f"{parser_of_one} strict" if parser_of_one else shown, group))
        groups.setdefault(key, []).append((value, own[0].number if own else 0, values))
    turns = by_turns.trajectories([one.rows for one in of])
    compared = []
    for other in of[1:]:
        change = differences(first, other)
        if change is not None:
            compared.append((other.name, *change))
    return Section(
        name=name,
        summary=first.facts.get("summary", ""),
        paper=first.facts.get("paper", ""),
        evaluations=of,
        colours=[f"var(--run-{i % COLOURS})" for i in range(len(of))],
        table=table,
        groups=list(groups.items()),
        headline=lead,
        baselines=first.baselines,
        compared=compared,
        drawing=Markup(_drawing(name, groups, first.baselines, len(of))) if groups and lead else Markup(""),
        cautions=_cautions(of),
        items=Markup(_items(name, of)),
        anchor=f"suite-{index}",
        trajectories=turns[:SHOWN],
        number_of_trajectories=len(turns),
        differences=[(one.name, by_turns.differences(first.rows, one.rows)) for one in of[1:]] if turns else [],
    )


def _cautions(of: Sequence[Evaluation]) -> list[str]:
    found = []
    for one in of:
        errors = [row["error"] for row in one.rows.values() if row.get("error")]
        if errors:
            failed = f"{count(len(errors), 'item')} failed and {'is' if len(errors) == 1 else 'are'} excluded"
            found.append(f"{one.name}: {failed}; the first error: {errors[0]}.")
        number = len(one.rows)
        if number < 100:
            found.append(f"{one.name}: only {count(number, 'item')}. Mind the intervals.")
    for key in ("suite", "prompt", "mode", "max_new_tokens", "decoding"):
        said = {one.facts["signature"].get(key) for one in of}
        if len(said) > 1:
            found.append(f"Not the same {key} for all: {', '.join(sorted(map(str, said)))}.")
    return found


Groups = Mapping[str, list[tuple[str, int, list[Interval | None]]]]
"""key -> [(value, items, numbers)]"""


def _drawing(salt: str, groups: Groups, baselines: Mapping[str, float], runs: int) -> str:
    """The headline by group: a point and its interval for each evaluation."""
    rows = [(f"{key} {value}", values) for key, of in groups.items() for value, _, values in of][:40]

    def paint(axes: Any) -> None:
        figure = axes.figure
        figure.set_size_inches(4.4, 0.6 + 0.16 * len(rows) * max(1, runs) ** 0.5)
        figure.subplots_adjust(left=0.36, bottom=0.5 / figure.get_size_inches()[1])
        for place, (_, values) in enumerate(rows):
            for run, value in enumerate(values):
                if value is None or math.isnan(value.estimate):
                    continue
                y = -place - (run - (runs - 1) / 2) * 0.6 / runs
                if value.known:
                    axes.plot([value.low, value.high], [y, y], color=run_colour(run), linewidth=1)
                axes.plot([value.estimate], [y], "o", color=run_colour(run), markersize=3.5, clip_on=False)
        if "random" in baselines:
            axes.axvline(baselines["random"], color=INK, linewidth=0.8, linestyle=":")
        axes.set_yticks([-place for place in range(len(rows))], [label for label, _ in rows], fontsize=7.5)
        axes.set_xlim(0, 1)

    return drawing(f"groups-{salt}", "correct", False, paint)


def _items(name: str, of: Sequence[Evaluation]) -> str:
    """All that the browser of items shows, as JSON for the page."""
    try:
        draw = suites.load(name).draw
    except SuiteError:
        draw = None
    entries = []
    for key in dict.fromkeys(key for one in of for key in one.rows):
        rows = [one.rows.get(key) for one in of]
        item = next(row["item"] for row in rows if row is not None)
        entry = {
            "id": key,
            "text": item["text"],
            "options": item["options"],
            "target": item["target"],
            "groups": item["groups"],
            "said": [None if row is None else _said(row) for row in rows],
        }
        if draw is not None:
            svg = draw(Item(**{**item, "target": tuple(item["target"])}))
            entry["svg"] = "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode() if svg else ""
        entries.append(entry)
    data = {"names": [one.name for one in of], "items": entries}
    return dumps(data).replace("<", "\\u003c")


def _said(row: Mapping[str, Any]) -> dict[str, Any]:
    verdicts = [
        {"parser": parser, "parsed": one["parsed"], "value": one["value"]} for parser, one in row["verdicts"].items()
    ]
    return {
        "chat": row["chat"], "answers": row["answers"], "verdicts": verdicts, "p": row.get("p"),
        "error": row.get("error"),
    }  # fmt: skip
