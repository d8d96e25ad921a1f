"""The page of a measured dial: each measure over the strength, where it breaks, and answers side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from rich.table import Table

from trimtab.common.count import count, exact
from trimtab.common.files import write_atomic
from trimtab.common.terminal import cells, table_of
from trimtab.data.messages import text_of
from trimtab.metrics.intervals import Interval
from trimtab.report.curves import GRID, drawing, run_colour
from trimtab.report.html import template

MEASURES = {
    "property": ("", "Mean over the answers.", 2),
    "perplexity": (
        "perplexity",
        "Of the answers under the original model. Loops are likely: see rep-4 too.",
        2,
    ),
    "repetition": ("rep-4", "Share of 4-grams of words that occurred before in the same answer.", 3),
    "kl_original": ("KL to original", "KL(p_s || p_0) per token of the answers, in nats.", 4),
    "kl_aligned": ("KL to aligned", "KL(p_s || p_1) per token of the answers, in nats.", 4),
}
"""measure -> title, meaning, digits; the property has its own name"""
SHOWN = 5
"""prompts whose answers are on the page"""


def write(facts: Mapping[str, Any], answers: Sequence[Sequence[str]], output: Path) -> Path:
    """Write the page.

    Args:
        facts: what `sweep.json` holds.
        answers: [(prompt, an answer at each strength)].
    """
    drawn = [(title(key, facts), MEASURES[key][1], Markup(_drawing(key, facts))) for key in MEASURES]
    strengths = [f"{one['strength']:g}" for one in facts["strengths"]]
    page = template("dial_sweep.html").render(
        facts=facts, verdict=verdict(facts), figures=drawn, strengths=strengths, columns=_titles(facts),
        rows=_rows(facts), suites=_suites(facts),
        answers=[(one[0], list(zip(strengths, one[1:]))) for one in answers[:SHOWN]],
    )  # fmt: skip
    return write_atomic(output, page)


def table(facts: Mapping[str, Any]) -> Table:
    """The measures with their intervals, for a terminal."""
    shown = table_of("strength", *_titles(facts), box=None, pad_edge=False)
    for row in _rows(facts):
        shown.add_row(*cells(row))
    return shown


def suite_tables(facts: Mapping[str, Any]) -> list[Table]:
    """One for each suite: its measures at each strength."""
    made = []
    for name, (strengths, rows) in _suites(facts).items():
        shown = table_of(name, *strengths, box=None, pad_edge=False)
        for row in rows:
            shown.add_row(*cells(row))
        made.append(shown)
    return made


def _suites(facts: Mapping[str, Any]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Suite -> strengths, and rows: a measure that is known at a strength, with its interval at each."""
    found = {}
    for name, at in facts["suites"].items():
        measures = [key for key in dict.fromkeys(key for one in at for key in one) if key != "strength"]
        values = {key: [_interval(one.get(key) or [None] * 3) for one in at] for key in measures}
        known = {key: of for key, of in values.items() if any(np.isfinite(one.estimate) for one in of)}
        rows = [[key, *(one.shown() for one in of)] for key, of in known.items()]
        found[name] = ([exact(one["strength"]) for one in at], rows)
    return found


def verdict(facts: Mapping[str, Any]) -> str:
    """The recommended range, and the rule that gave it, in words."""
    (low, high), (below, above), share = facts["recommended"], facts["breaks"], facts["tolerance"]
    unsure = " and ".join(f"{one:g}" for one in facts["undecided"])
    few = f"; {count(facts['prompts'], 'prompt')} cannot decide it at {unsure}: measure more with --number"
    where = [f"{one:g}" for one in (below, above) if one is not None]
    broken = f"it breaks at {' and '.join(where)}" if where else "no measured strength breaks"
    return (
        f"recommended: {low:g} to {high:g}; {broken} (the first strength beyond 0 or 1 whose answers have more than "
        f"{share:.0%} more perplexity, or {share:.0%} more repeated 4-grams, than there, with the whole 95% interval)"
        f"{few if unsure else ''}"
    )


def words(prompt: Any) -> str:
    """A prompt as text; of messages the last."""
    return prompt if isinstance(prompt, str) else text_of(prompt[-1].get("content"))


def title(key: str, facts: Mapping[str, Any]) -> str:
    return MEASURES[key][0] or str(facts["measure"])


def _titles(facts: Mapping[str, Any]) -> list[str]:
    return [title(key, facts) for key in MEASURES]


def _rows(facts: Mapping[str, Any]) -> list[list[str]]:
    return [
        [f"{one['strength']:g}", *(_interval(one[key]).shown(digits) for key, (_, _, digits) in MEASURES.items())]
        for one in facts["strengths"]
    ]


def _interval(stored: Sequence[float | None]) -> Interval:
    return Interval(*(np.nan if x is None else x for x in stored))


def _drawing(key: str, facts: Mapping[str, Any]) -> str:
    strengths = [one["strength"] for one in facts["strengths"]]
    values = [_interval(one[key]) for one in facts["strengths"]]

    def paint(axes: Any) -> None:
        for end in facts["recommended"]:
            axes.axvline(end, color=GRID, linewidth=2)
        axes.plot(strengths, [one.estimate for one in values], color=run_colour(0), linewidth=1.2)
        for strength, one in zip(strengths, values):
            if one.known:
                axes.plot([strength] * 2, [one.low, one.high], color=run_colour(0), linewidth=1.8)
            if np.isfinite(one.estimate):
                axes.plot([strength], [one.estimate], "o", color=run_colour(0), markersize=5, clip_on=False)

    return drawing(f"sweep {key}", "strength", False, paint)
