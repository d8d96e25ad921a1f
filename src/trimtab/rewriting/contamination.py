"""How much of a score is memory? Original, cleaned and fresh items side by side, and what a set keeps of its words.

Other words also change how hard a question is, so the gap is compared with that of a model that cannot have seen the
test set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from trimtab.data.sources import Row
from trimtab.evals.suite import Answered
from trimtab.metrics.intervals import Interval, bootstrap_ratio, mean_of, stratified_mean
from trimtab.rewriting import similarity
from trimtab.rewriting.questions import Cleaned, CleanEvalError, PairScorer

Set = Literal["original", "clean", "control"]
SETS: tuple[Set, ...] = ("original", "clean", "control")
LIMIT = 1.5
"""Recovery is cut there: beyond it the clean items are simply harder."""


@dataclass(frozen=True)
class Triangle:
    """One model on three sets. Scores are means of verdicts in [0, 1], an answer that was not understood counts 0."""

    model: str
    scores: Mapping[str, Interval]
    """set -> score"""
    gap: Interval
    """original - clean, over the items that both have"""
    excess: Interval
    """original - control, over two sets of different items"""
    shift: Interval | None
    """the gap less that of the baseline, over the items that all have: what other words do to any model is gone"""
    recovery: float | None
    """(b - c) / (b - a) in [0, 1.5]: b the score on the original, c on the clean set, a that of the baseline on the
    original, or without one the model's own on the control set; None where the interval of b - a is not above 0"""


def triangles(
    answered: Mapping[str, Mapping[Set, Sequence[Answered]]],
    *,
    rewriter: str,
    baseline: str | None = None,
    parser: str | None = None,
    allow_same: bool = False,
) -> list[Triangle]:
    """The scores and gaps of each model.

    Args:
        answered: model -> set -> its answered items; original and clean items share ids, control items are others.
            Items that ended in an error count nowhere.
        rewriter: that made the clean set, as its meta names it.
        baseline: a model of `answered` that has not seen the original items.
        parser: whose verdicts count; each item's first if not given.
        allow_same: let a model be measured that made the clean set, which flatters it.

    Raises:
        CleanEvalError: for a missing set, sets without a common item, an unknown baseline or parser, or a model that
            made the clean set.

    Source: Clean-Eval (arXiv:2311.09154) evaluates a clean, a contaminated and a contaminated model on rewritten items.
    """
    if baseline is not None and baseline not in answered:
        raise CleanEvalError(f"the baseline {baseline!r} is none of the models {', '.join(answered)}")
    values: dict[str, dict[str, dict[str, float]]] = {}
    for model, sets in answered.items():
        if not allow_same:
            check_author(model, rewriter)
        missing = [name for name in SETS if not sets.get(name)]
        if missing:
            raise CleanEvalError(f"{model} has no answered items of the {missing[0]} set")
        values[model] = {name: _values(sets[name], parser, f"{model}, {name}") for name in SETS}
    return [_triangle(model, values, baseline) for model in answered]


def check_author(model: str, rewriter: str) -> None:
    """Raise a CleanEvalError for a model that made the clean set."""
    if set(model.split()) & set(rewriter.split()):
        raise CleanEvalError(
            f"{model} made the clean set ({rewriter}), which favours it; clean with another model, or allow it"
        )


def _values(answered: Sequence[Answered], parser: str | None, where: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in answered:
        if one.error is None:
            name = parser or next(iter(one.verdicts))
            if name not in one.verdicts:
                raise CleanEvalError(f"{where}: there is no parser {name!r}; parsers: {', '.join(one.verdicts)}")
            found[one.item.id] = one.verdicts[name].value or 0.0
    if not found:
        raise CleanEvalError(f"{where}: every item ended in an error")
    return found


def _triangle(model: str, values: dict[str, dict[str, dict[str, float]]], baseline: str | None) -> Triangle:
    own = values[model]
    original, clean, control = (own[name] for name in SETS)
    gap = _paired(model, clean, original)
    sides = [(list(side.values()), np.ones(len(side))) for side in (control, original)]
    excess = stratified_mean(sides, (-1, 1))  # of different items: each side is drawn by itself
    shift, above = None, excess
    if baseline is not None:
        other = values[baseline]
        shared = [i for i in original if i in clean and i in other["original"] and i in other["clean"]]
        if not shared:
            raise CleanEvalError(f"{model} and {baseline} share no items")
        theirs = [other["original"][i] - other["clean"][i] for i in shared]
        shift = mean_of([original[i] - clean[i] - gap_of for i, gap_of in zip(shared, theirs)])
        above = _paired(model, other["original"], original)
    recovery = None
    if above.known and above.low > 0:
        recovery = float(np.clip(gap.estimate / above.estimate, 0, LIMIT))
    scores = {name: mean_of(list(own[name].values())) for name in SETS}
    return Triangle(model, scores, gap, excess, shift, recovery)


def _paired(model: str, one: dict[str, float], other: dict[str, float]) -> Interval:
    """other - one over the items of both."""
    shared = [i for i in other if i in one]
    if not shared:
        raise CleanEvalError(f"{model}: original and clean items share no ids")
    return mean_of([other[i] - one[i] for i in shared])


# ---------------------------------------------------------------- what a set keeps of its words


def surface(cleaned: Cleaned, scorers: Sequence[PairScorer]) -> dict[str, Any]:
    """Of a cleaned set, JSON: rows, left out, share rewritten, candidates and why they were dropped; and over the
    rewritten texts the mean of each scorer, of ROUGE-L, and the share of 13-grams that the original has.

    Means are (estimate, low, high) with 95 % intervals over texts. A 13-gram that is left is what contamination checks
    look for; the share is None where no clean text has 13 words.
    """
    rows = [*cleaned.rows, *cleaned.left_out]
    pairs = [
        (_original(row, name), text)
        for row in cleaned.rows
        for name, text in row["clean"].items()
        if row["origin"][name] is not None
    ]
    found: dict[str, Any] = {
        "items": len(rows),
        "left out": len(cleaned.left_out),
        "rewritten": sum(row["rewritten"] for row in rows) / len(rows),
        "candidates": sum(row["generated"] for row in rows),
        "survivors": sum(row["kept"] for row in rows),
        "dropped": cleaned.dropped,
        "bands": {name: list(band) for name, band in cleaned.bands.items()},
    }
    if pairs:
        columns = {scorer.name: scorer(pairs) for scorer in scorers}
        columns["ROUGE-L"] = [similarity.rouge_l(*pair) for pair in pairs]
        for name, column in columns.items():
            found[name] = _json(mean_of(column))
        same, whole = np.array([similarity.copied(*pair) for pair in pairs], float).T
        found["13-grams kept"] = _json(bootstrap_ratio(same, whole)) if whole.any() else None
    return found


def _original(row: Row, name: str) -> str:
    return row["fields"][name] if "fields" in row else row[name]


def _json(interval: Interval) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in interval]
