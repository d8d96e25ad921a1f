"""The page of a comparison of decoding strategies: measures with intervals, drawings, texts, candidates."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from trimtab.common.files import dumps, write_atomic
from trimtab.metrics.intervals import Interval
from trimtab.report.curves import INK, drawing
from trimtab.report.html import template

Array = NDArray[np.float64]


def _colour(index: int) -> str:
    """A placeholder for the colour that the page gives a strategy."""
    return f"#0c00{index:02x}"


@dataclass(frozen=True)
class MeasureColumn:
    """One measure of the table."""

    title: str
    meaning: str
    digits: int
    values: dict[str, Interval]
    """strategy -> value; those that have none are missing"""


@dataclass(frozen=True)
class Series:
    """One number along the texts, for each strategy; lines of other names are labelled in the drawing."""

    title: str
    meaning: str
    values: Mapping[str, Sequence[float]]
    log: bool = False
    across: str = "token of the text"


@dataclass(frozen=True)
class Page:
    """All that the page shows."""

    headline: str
    strategies: dict[str, str]
    """name -> what it is, with its settings; `human` may be one"""
    columns: list[MeasureColumn]
    series: list[Series]
    map: tuple[MeasureColumn, MeasureColumn]
    """horizontal and vertical measure of the drawing in which each strategy is a point"""
    prompts: list[tuple[str, dict[str, str]]]
    """[(prompt, {strategy: text})]"""
    steps: list[dict[str, Any]]
    """[{"prompt", "strategy", "steps": as of `trimtab.evals.token_view.choices`}]"""
    signature: list[tuple[str, str]]
    cautions: list[str]


def write(page: Page, output: Path) -> Path:
    """One HTML file that needs no network; what was there is replaced at once or, on an error, not at all."""
    return write_atomic(output, render(page))


def render(page: Page) -> str:
    """The page as text."""
    colours = {name: f"var(--run-{index})" for index, name in enumerate(page.strategies)}
    return template("decoding.html").render(
        page=page,
        colours=colours,
        map=Markup(_points(page)),
        series=[(series, Markup(_lines(series, list(page.strategies), n))) for n, series in enumerate(page.series)],
        prompts=[
            (prompt, [(name, marked(texts[name]) if name in texts else None) for name in page.strategies])
            for prompt, texts in page.prompts
        ],
        steps=Markup(dumps(page.steps).replace("<", "\\u003c")),
        number=_number,
        sort_key=lambda interval: "" if interval is None or math.isnan(interval.estimate) else repr(interval.estimate),
    )


def _number(interval: Interval | None, digits: int) -> tuple[str, str]:
    """An estimate, and its interval in brackets."""
    if interval is None or math.isnan(interval.estimate):
        return "–", ""
    span = f"[{interval.low:,.{digits}f}, {interval.high:,.{digits}f}]" if interval.known else ""
    return f"{interval.estimate:,.{digits}f}", span


def marked(text: str, n: int = 4) -> Markup:
    """A text in which words of an n-gram that was there before are marked."""
    words = text.split()
    seen: set[tuple[str, ...]] = set()
    again = [False] * len(words)
    for start in range(len(words) - n + 1):
        gram = tuple(words[start : start + n])
        if gram in seen:
            again[start : start + n] = [True] * n
        seen.add(gram)
    parts = []
    for repeated, group in itertools.groupby(zip(words, again), key=lambda pair: pair[1]):
        part = escape(" ".join(word for word, _ in group))
        parts.append(Markup("<mark>{}</mark>").format(part) if repeated else part)
    return Markup(" ").join(parts)


def _points(page: Page) -> str:
    across, up = page.map

    def paint(axes: Any) -> None:
        for index, name in enumerate(page.strategies):
            if name not in across.values or name not in up.values:
                continue
            x, y = across.values[name], up.values[name]
            if x.known and y.known:
                axes.plot([x.low, x.high], [y.estimate] * 2, color=_colour(index), linewidth=0.9)
                axes.plot([x.estimate] * 2, [y.low, y.high], color=_colour(index), linewidth=0.9)
            axes.plot([x.estimate], [y.estimate], "o", color=_colour(index), markersize=5)
            axes.annotate(
                name, (x.estimate, y.estimate), xytext=(4, 4), textcoords="offset points", fontsize=8, color=INK
            )

    return drawing("map", across.title, False, paint)


def _lines(series: Series, names: list[str], number: int) -> str:
    def paint(axes: Any) -> None:
        for index, (name, values) in enumerate(series.values.items()):
            steps = np.arange(1, len(values) + 1)
            good = np.isfinite(values)
            colour = _colour(names.index(name) if name in names else index)
            axes.plot(steps[good], np.asarray(values)[good], color=colour, linewidth=1.4)
            if name not in names and good.any():
                end = (steps[good][-1], np.asarray(values)[good][-1])
                axes.annotate(name, end, xytext=(-3, 5), textcoords="offset points", fontsize=8, ha="right", color=INK)

    return drawing(f"series {number}", series.across, series.log, paint)


def mean_along(columns: Mapping[str, Sequence[Sequence[float]]], length: int) -> dict[str, list[float]]:
    """strategy -> mean over its texts at each token, over those that are so long."""
    found = {}
    for name, rows in columns.items():
        table = np.full((len(rows), length), np.nan)
        for i, row in enumerate(rows):
            table[i, : len(row)] = row[:length]
        with np.errstate(invalid="ignore"):
            counts = np.isfinite(table).sum(axis=0)
            found[name] = np.where(counts > 0, np.nansum(table, axis=0) / np.maximum(counts, 1), np.nan).tolist()
    return found
