"""The page of a session of edits: what was asked of each fact, before and after, and a curve over the edits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from trimtab.common.files import read_json, records, write_atomic
from trimtab.evals import FACTS, SAMPLES
from trimtab.report.curves import drawing, run_colour
from trimtab.report.html import template

KINDS = ("reliability", "generalisation", "locality", "portability", "negation", "reversal", "longform")


def write_session(folder: Path, shown: Mapping[str, Any]) -> Path:
    """Write `report.html` of a session.

    Args:
        shown: its plan, its edits, the step it stands at and the number of edits made by each step.
    """
    found = evaluations(folder / "evals", int(shown["step"]))
    edits = shown["edits"]
    last = max(found, default=0)
    made = [one["id"] for one in edits[: shown["made"][last]]]
    before, after = found.get(0, {}), found.get(last, {}) if last else {}
    table = [_share(before, after, kind, made) for kind in KINDS]
    page = template("edits.html").render(
        plan={key: value for key, value in shown["plan"].items() if value not in ("", 0, (), [])},
        step=shown["step"],
        steps=shown["steps"],
        failed=shown["failed"],
        number=len(edits),
        made=shown["made"][shown["step"]],
        measures=[row for row in table if row["of"]],
        curve=_curve(found, shown) if len(found) > 2 else None,
        kinds=[(kind, index) for index, kind in enumerate(KINDS[:3])],
        edits=[_of_edit(one, before, after, number < shown["made"][last]) for number, one in enumerate(edits)],
    )
    write_atomic(folder / "report.html", page)
    return folder / "report.html"


def evaluations(folder: Path, upto: int) -> dict[int, dict[str, Any]]:
    """Step -> the rows of its finished evaluation by name, up to a step."""
    found = {}
    for place in sorted(folder.glob("*/edit")) if folder.is_dir() else ():
        facts = place / FACTS
        step = int(place.parent.name)
        if step <= upto and facts.is_file() and read_json(facts).get("finished"):
            found[step] = {row["id"]: row for row in records((place / SAMPLES).read_bytes(), "id")}
    return found


def correct(row: Mapping[str, Any]) -> float | None:
    """Whether an answer holds what it should, which one without a verdict does not; None where no answer is right or
    none came."""
    if row.get("error") or not row["item"]["target"]:
        return None
    return row["verdicts"]["contains"]["value"] or 0.0


def rows_of(rows: Mapping[str, Any], edit: str, kind: str | None = None) -> list[Mapping[str, Any]]:
    """Rows of an edit, of one kind of probe or of all."""
    mine = [row for row in rows.values() if row["item"]["data"].get("edit") == edit]
    return [row for row in mine if kind is None or row["item"]["groups"]["probe"] == kind]


def share(rows: Mapping[str, Any], kind: str, edits: Sequence[str]) -> tuple[float, int]:
    """Mean over edits of the share of correct answers, and the number of edits that have such probes."""
    means = []
    for edit in edits:
        values = [value for row in rows_of(rows, edit, kind) if (value := correct(row)) is not None]
        means += [sum(values) / len(values)] if values else []
    return (sum(means) / len(means) if means else 0.0), len(means)


def _share(before: Mapping[str, Any], after: Mapping[str, Any], kind: str, made: Sequence[str]) -> dict[str, Any]:
    first, number = share(before, kind, made)
    second, later = share(after, kind, made)
    return {
        "kind": kind,
        "before": f"{first:.0%}",
        "after": f"{second:.0%}" if later else "–",
        "of": max(number, later),
    }


def _curve(found: Mapping[int, Mapping[str, Any]], shown: Mapping[str, Any]) -> Markup:
    """Shares of correct answers over the number of edits, each of the edits made until then."""
    steps = [step for step in sorted(found) if step]
    ids = [one["id"] for one in shown["edits"]]

    def paint(axes: Any) -> None:
        for index, kind in enumerate(KINDS[:3]):
            numbers = [shown["made"][step] for step in steps]
            values = [share(found[step], kind, ids[:number])[0] for step, number in zip(steps, numbers)]
            axes.plot(numbers, values, marker="o", markersize=3, color=run_colour(index))
        axes.set_ylim(-0.03, 1.03)

    return Markup(drawing("edits", "edits made", False, paint))


def _of_edit(
    edit: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any], made: bool
) -> dict[str, Any]:
    asked = rows_of(after or before, edit["id"])
    return {
        "prompt": edit["prompt"],
        "target": edit["target_new"],
        "old": edit["ground_truth"] or "",
        "made": made,
        "probes": [
            {
                "kind": f"{row['item']['groups']['probe']}, {row['item']['groups']['mode']}",
                "asked": row["item"]["text"],
                "wanted": " / ".join(row["item"]["target"][:1]),
                "before": _said(before.get(row["id"])),
                "after": _said(after.get(row["id"])) if after else ("", ""),
            }
            for row in asked
        ],
    }


def _said(row: Mapping[str, Any] | None) -> tuple[str, str]:
    """An answer, and a mark for its verdict."""
    if row is None:
        return "", ""
    if row.get("error"):
        return str(row["error"]), "error"
    value = correct(row)
    return row["answers"][-1].strip(), "" if value is None else "✓" if value else "✗"
