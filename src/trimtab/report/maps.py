"""Attribution maps on the page: which tokens a student and its teacher rest their decisions, or their answers, on."""

from typing import Any

from trimtab.report.measures import digits
from trimtab.report.reading import Run


def shown(run: Run) -> list[dict[str, Any]]:
    """Rows of the last step that has maps: what is `said` of a row, and its `sides`, teacher and student, with tokens
    as (text, share of the map)."""
    rows = run.maps[max(run.maps)] if run.maps else {}
    return [
        {"said": _said(row), "sides": [_side(row, side) for side in ("teacher", "student")]} for row in rows.values()
    ]


def _side(row: dict[str, Any], side: str) -> tuple[str, list[tuple[str, float]]]:
    answer = row.get("teacher_answer" if side == "teacher" else "answer")
    named = side if answer is None else f"{side}: {_word(answer)}"
    shares = [round(float(share or 0), 3) for share in row[side]]
    return named, list(zip(map(str, row["tokens"]), shares))


def _said(row: dict[str, Any]) -> str:
    number = row["row_id"] + 1 if isinstance(row["row_id"], int) else row["row_id"]
    return f"row {number}" + (f", label {_word(row['label'])}" if "label" in row else "")


def _word(entry: Any) -> str:
    return digits(entry) if isinstance(entry, float) else str(entry)
