"""The page of `trimtab score`: metrics with intervals, calibration, and answers coloured token by token."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from trimtab.common.files import dumps, write_atomic
from trimtab.evals.scored import Answer, Scored
from trimtab.metrics.intervals import Interval
from trimtab.metrics.token_scores import mark
from trimtab.report.curves import INK, drawing, run_colour
from trimtab.report.html import template

SHOWN = 200
"""answers that the page holds"""
Cell = str | tuple[str, str]
"""words, or a number and its interval"""


class ScoreTable(NamedTuple):
    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""


def write(facts: Mapping[str, Any], found: Sequence[tuple[Answer, Scored]], output: Path) -> Path:
    """One HTML file that needs no network; what was there is replaced at once or, on an error, not at all.

    Args:
        facts: what measures.json holds.
        found: answers with their scores, of which the first `SHOWN` are shown.
        output: the file.
    """
    text = template("scores.html").render(
        headline=_headline(facts),
        facts=facts,
        tables=tables(facts),
        drawings=[(title, Markup(svg), lines, note) for title, svg, lines, note in _drawings(facts)],
        data=Markup(_data(facts, found[:SHOWN])),
        shown=min(SHOWN, len(found)),
        number=len(found),
    )
    return write_atomic(output, text)


def number(value: Sequence[float | None] | None, digits: int = 3) -> Cell:
    """An estimate, and its interval in brackets."""
    if value is None or value[0] is None:
        return "–"
    estimate, low, high = (math.nan if x is None else x for x in value)
    interval = Interval(estimate, low, high)
    return f"{estimate:.{digits}f}", f"[{low:.{digits}f}, {high:.{digits}f}]" if interval.known else ""


def _headline(facts: Mapping[str, Any]) -> str:
    subject = f"{facts['counts']['answers']} answers of {facts['source']} scored by {facts['model']}"
    first = next((one for one in facts["measures"] if one["group"] == "all"), None)
    value = number(first["value"]) if first else "–"
    return f"{subject}: {first['name']} {value[0]}" if first and isinstance(value, tuple) else subject


def tables(facts: Mapping[str, Any], *, groups: bool = True) -> list[ScoreTable]:
    """The measures as tables, with those of single groups or without."""
    found = []
    whole = [one for one in facts["measures"] if one["group"] == "all"]
    if whole:
        rows: list[list[Cell]] = [[one["name"], number(one["value"]), str(one["number"])] for one in whole]
        found.append(ScoreTable("Over all answers", ["measure", "value", "over"], rows))
    parts = [one for one in facts["measures"] if one["group"] != "all" and groups]
    for key in dict.fromkeys(one["group"].partition("=")[0] for one in parts):
        own = {(one["group"], one["name"]): one for one in parts if one["group"].startswith(f"{key}=")}
        values, names = (list(dict.fromkeys(pair[i] for pair in own)) for i in (0, 1))
        rows = [[value.partition("=")[2], *(number(own[value, name]["value"]) for name in names)] for value in values]
        found.append(ScoreTable(f"By {key} of the error", [key, *names], rows))
    return [*found, *_step_tables(facts["steps"], groups), *_best_tables(facts["best_of_n"])]


def _step_tables(steps: Sequence[Mapping[str, Any]], accuracies: bool) -> Iterable[ScoreTable]:
    if not steps:
        return
    groups = list(dict.fromkeys(one["group"] for one in steps))
    rows: list[list[Cell]] = []
    for rule, threshold in dict.fromkeys((one["rule"], one["threshold"]) for one in steps):
        own = {one["group"]: one for one in steps if (one["rule"], one["threshold"]) == (rule, threshold)}
        rows.append([rule, threshold, *(number(own[group]["f1"]) if group in own else "–" for group in groups)])
    note = (
        "F1 of finding the first wrong step, or that there is none. Thresholds: oracle and grid are chosen on the "
        "traces that they are measured on, and are optimistic; held out is chosen on the other half of the problems."
    )
    yield ScoreTable("First wrong step: F1", ["rule", "threshold", *groups], rows, note)
    if not accuracies:
        return
    parts: list[list[Cell]] = [
        [
            *(one["group"], one["rule"], one["threshold"], number(one["right"]), number(one["erroneous"])),
            *(", ".join(f"{x:.4g}" for x in one["thresholds"]), str(one["traces"])),
        ]
        for one in steps
        if one["right"] is not None
    ]
    columns = ["traces", "rule", "threshold", "correct traces", "erroneous traces", "chosen", "number"]
    yield ScoreTable("First wrong step: accuracies", columns, parts)


def _best_tables(curve: Sequence[Mapping[str, Any]]) -> Iterable[ScoreTable]:
    if not curve:
        return
    names = list(curve[0]["accuracy"])
    rows: list[list[Cell]] = [[str(one["n"]), *(number(one["accuracy"][name]) for name in names)] for one in curve]
    note = (
        "Share of problems solved by picking one of n answers: the highest final value, the commonest final answer, "
        "the one with most weight, any, any of the distinct final answers (about what uninformative scores get), "
        "or a correct one if there is one."
    )
    yield ScoreTable("Best of n", ["n", *names], rows, note)
    if curve[0]["over_majority"]:
        others = list(curve[0]["over_majority"])
        rows = [[str(one["n"]), *(number(one["over_majority"][name]) for name in others)] for one in curve]
        yield ScoreTable("Best of n minus the majority vote", ["n", *others], rows, "Paired by problem.")


# ---------------------------------------------------------------- drawings


def _drawings(facts: Mapping[str, Any]) -> Iterable[tuple[str, str, tuple[str, ...], str]]:
    """Title, SVG, what its colours stand for, and a note."""
    bins = [(one["predicted"], one["right"]) for one in facts["reliability"] if one["answers"]]
    if bins:

        def reliability(axes: Any) -> None:
            axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
            _points(axes, [x for x, _ in bins], [y for _, y in bins], 0)
            axes.set_xlim(0, 1)
            axes.set_ylim(-0.03, 1.03)

        yield (
            "Calibration of whole answers",
            drawing("reliability", "predicted probability that the answer is correct", False, reliability),
            (),
            "Share of correct answers among those with about this value. On the dotted line scores are calibrated.",
        )
    deciles = [(place, one) for place, one in enumerate(facts["calibration"], 1) if one["answers"]]
    if deciles:

        def along(axes: Any) -> None:
            places = [10 * place for place, _ in deciles]
            for colour, key in enumerate(("predicted", "right", "brier")):
                _points(axes, places, [one[key] for _, one in deciles], colour)
            axes.set_ylim(-0.03, 1.03)

        yield (
            "Prefixes",
            drawing("calibration", "% of the answer read", False, along),
            ("mean probability", "share of correct answers", "Brier score"),
            "Over the answers that have a token there.",
        )


def _points(axes: Any, places: Sequence[float], values: Sequence[Sequence[float | None]], colour: int) -> None:
    """Estimates with their intervals."""
    numbers = np.array(values, float)  # null is NaN
    axes.plot(places, numbers[:, 0], "o-", color=run_colour(colour), linewidth=1.3, markersize=4, clip_on=False)
    for place, (_, low, high) in zip(places, numbers):
        axes.plot([place, place], [low, high], color=run_colour(colour), linewidth=1)


# ---------------------------------------------------------------- answers


def _data(facts: Mapping[str, Any], found: Sequence[tuple[Answer, Scored]]) -> str:
    """All that the browser of answers shows, as JSON for the page.

    Scores whose zero has a meaning (log-ratios) are coloured around it, others around their median; the colours are
    full at the 95th percentile of the distance.
    """
    scales = {}
    for name in ("scores", "values", "td"):
        numbers = np.concatenate([getattr(scored, name) for _, scored in found])
        has_zero = name == "td" or facts["reading"]["source"] == "ratio" or (name == "values" and facts["outcomes"])
        middle = 0.0 if has_zero else float(np.median(numbers))
        reach = float(np.percentile(abs(numbers - middle), 95)) or float(abs(numbers - middle).max()) or 1.0
        scales[name] = [middle, reach]
    data = {
        "outcomes": facts["outcomes"],
        "pairs": facts["form"] == "pairs",
        "scales": scales,
        "answers": [_answer(*pair) for pair in found],
    }
    return dumps(data).replace("<", "\\u003c")


def _answer(answer: Answer, scored: Scored) -> dict[str, Any]:
    wrong = np.zeros(len(scored.tokens), int)
    if answer.consequences:
        wrong[mark(scored.offsets, answer.consequences)] = 2
    if answer.error:
        wrong[mark(scored.offsets, [answer.error])] = 1
    read = max((end for _, end in scored.offsets), default=0)
    return {
        "row": answer.row + 1,
        "side": answer.side,
        "right": answer.correct,
        "kind": answer.kind or answer.split,
        "prompt": answer.prompt,
        "tokens": scored.tokens,
        "own": [int(end > start) for start, end in scored.offsets],
        "wrong": wrong.tolist(),
        "scores": [float(f"{x:.4g}") for x in scored.scores],
        "values": [float(f"{x:.4g}") for x in scored.values],
        "td": [float(f"{x:.4g}") for x in scored.td],
        "rest": scored.answer[read:],
    }
