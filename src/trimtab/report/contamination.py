"""The page of `trimtab contamination`: three scores for each model, and the gaps between them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from trimtab.common.files import write_atomic
from trimtab.report.curves import drawing, run_colour
from trimtab.report.evaluation import number
from trimtab.report.html import template
from trimtab.rewriting.contamination import SETS, Triangle

MEANINGS = {
    "original": "Accuracy on the original items; an answer that cannot be parsed counts 0.",
    "clean": "The same items, paraphrased.",
    "control": "Items of the same kind that are supposed to be fresh.",
    "original - clean": "The gap of memorised wording, plus what paraphrasing does to any model. Bootstrapped jointly.",
    "original - control": "The gap between seen and fresh items. The two sets may also differ in difficulty.",
    "minus the baseline's": "The first gap minus that of the baseline: removes what paraphrasing does to any model.",
    "recovery": (
        "How much of the model's lead over the baseline (or over its own control items) paraphrasing removes: 1 is all "
        "of it; above 1 the clean items are harder."
    ),
}


def gaps(one: Triangle) -> list[str]:
    """Of one model: original - clean, original - control, with a baseline the first minus the baseline's, recovery."""
    shift = [one.shift.shown()] if one.shift is not None else []
    return [one.gap.shown(), one.excess.shown(), *shift, "-" if one.recovery is None else f"{one.recovery:.2f}"]


def cautions(facts: Mapping[str, Any]) -> list[str]:
    """Caveats to read before the numbers."""
    lines, items = [], facts["items"]
    if min(items.values()) < 100:
        lines.append(f"Few items ({_listed(items)}): mind the intervals.")
    for model, errors in facts["errors"].items():
        if any(errors.values()):
            lines.append(
                f"{model}: items failed with an error and are excluded ({_listed(errors)}), so a gap may cover fewer "
                "items than its scores; run the same command again to retry them."
            )
    if facts["unchanged wording"]:
        lines.append(
            f"Items with the same wording in both sets: {facts['unchanged wording']}; they make every gap smaller."
        )
    return lines


def _listed(numbers: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {number}" for name, number in numbers.items())


def findings(found: Sequence[Triangle], facts: Mapping[str, Any]) -> list[str]:
    """A sentence on each model: is there a significant gap?"""
    lines, random = [], facts["a random option"]
    for one in found:
        if random is not None and not one.scores["original"].low > random:
            lines.append(
                f"{one.model} is not clearly above a random option ({random:.3f}) on the original items, so "
                "there is no sign that it has seen them."
            )
            continue
        gap, than = (one.gap, "") if one.shift is None else (one.shift, " more than the baseline")
        if gap.known and gap.low > 0:
            lines.append(
                f"{one.model} loses {gap.shown()}{than} on paraphrased items: it seems to know the original wording."
            )
        elif one.excess.known and one.excess.low > 0:
            lines.append(
                f"{one.model} is better on the original than on fresh items, by {one.excess.shown()}, but loses "
                "nothing by paraphrasing: paraphrases may be too close, or the fresh items harder."
            )
        else:
            lines.append(f"{one.model} has no gap whose interval is above 0.")
    return lines


def write(
    found: Sequence[Triangle], facts: Mapping[str, Any], links: Mapping[str, Mapping[str, str]], output: Path
) -> Path:
    """Write one self-contained HTML file; `links` to the evaluations: model -> set -> address."""
    rows = [
        (
            one.model,
            [(number(one.scores[name]), links[one.model][name]) for name in SETS],
            [number(one.gap), number(one.excess), number(one.shift)],
            "–" if one.recovery is None else f"{one.recovery:.2f}",
        )
        for one in found
    ]
    text = template("contamination.html").render(
        rows=rows,
        columns=list(MEANINGS),
        meanings=MEANINGS,
        findings=findings(found, facts),
        sets=SETS,
        cautions=cautions(facts),
        drawing=Markup(_drawing(found)),
        facts={
            key: _listed(value) if key == "items" else value
            for key, value in facts.items()
            if value is not None and key != "errors"
        },
    )
    return write_atomic(output, text)


def _drawing(found: Sequence[Triangle]) -> str:
    def paint(axes: Any) -> None:
        axes.figure.set_size_inches(4.4, 0.7 + 0.42 * len(found))
        axes.figure.subplots_adjust(left=0.36, bottom=0.5 / axes.figure.get_size_inches()[1])
        for place, one in enumerate(found):
            for at, name in enumerate(SETS):
                value, y = one.scores[name], -place - (at - 1) * 0.22
                if value.known:
                    axes.plot([value.low, value.high], [y, y], color=run_colour(at), linewidth=1)
                axes.plot([value.estimate], [y], "o", color=run_colour(at), markersize=4, clip_on=False)
        axes.set_yticks([-place for place in range(len(found))], [one.model[-28:] for one in found], fontsize=7.5)
        axes.set_xlim(0, 1)

    return drawing("contamination", "right", False, paint)
