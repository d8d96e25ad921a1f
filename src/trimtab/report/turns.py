"""Trajectories turn by turn: what tools said, what the reference does there, and what each model did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.metrics.intervals import Interval, paired_difference

SHOWN, LENGTH = 50, 1000
"""trajectories of a page; characters of a text"""
PARTS = ("plan", "action", "arguments")
"""verdicts that a turn is right by"""
COMPARED = {"plan": "plan accuracy", "action": "action EM", "arguments": "argument F1", "answer": "ROUGE-L, words"}
"""verdicts by which evaluations are compared, and their numbers' names"""
WHERE = {"plan": ("call", "finish", "give up"), "action": ("call",), "arguments": ("call",), "answer": ("finish",)}
"""verdict -> plans of the reference at which it counts"""
Rows = Mapping[str, Mapping[str, Any]]
"""item id -> its row"""


@dataclass(frozen=True)
class TurnRow:
    """A turn, or what stands between two."""

    number: int
    before: list[tuple[str, str]]
    """(role, text) of users and tools since the turn before"""
    reference: str
    said: list[tuple[str, str, str]]
    """of each evaluation: text, class of its colour, verdicts"""


@dataclass(frozen=True)
class TrajectoryRows:
    """A trajectory."""

    id: str
    groups: str
    task: str
    marks: list[tuple[str, str]]
    """(mark, class) of the first evaluation's turns"""
    turns: list[TurnRow]


def trajectories(rows: Sequence[Rows]) -> list[TrajectoryRows]:
    """Of evaluations whose items are turns, in the order of their ids; none where items are no turns.

    Args:
        rows: of each evaluation, item id -> its row.
    """
    items: dict[str, dict[str, Any]] = {}
    for of_one in rows:
        for key, row in of_one.items():
            if {"trajectory", "turn", "steps"} <= set(row["item"]["data"]):
                items.setdefault(key, row["item"])
    by_trajectory: dict[str, list[dict[str, Any]]] = {}
    for item in items.values():
        by_trajectory.setdefault(item["data"]["trajectory"], []).append(item)
    return [_of(name, by_trajectory[name], rows) for name in sorted(by_trajectory)]


def _of(name: str, items: list[dict[str, Any]], rows: Sequence[Rows]) -> TrajectoryRows:
    items.sort(key=lambda item: item["data"]["turn"])
    found, told = [], 0
    for item in items:
        steps = item["data"]["steps"]
        before = [(role, _short(text)) for role, text in steps[told:] if role in ("user", "observation")]
        told = len(steps)
        said = [_said(of_one.get(item["id"])) for of_one in rows]
        found.append(TurnRow(item["data"]["turn"], before, _short("\n".join(item["target"])), said))
    task = next((text for role, text in items[0]["data"]["steps"] if role == "user"), "")
    groups = ", ".join(f"{key} {value}" for key, value in items[0]["groups"].items() if key != "plan")
    marks = {"right": "✓", "wrong": "✗", "none": "?"}
    shown = [(marks[turn.said[0][1]], turn.said[0][1]) for turn in found]
    return TrajectoryRows(name, groups, _short(task), shown, found)


def _said(row: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if row is None:
        return "not asked", "none", ""
    if row.get("error"):
        return str(row["error"]), "none", "failed"
    verdicts = {name: one["value"] for name, one in row["verdicts"].items() if one["value"] is not None}
    right = bool(verdicts) and all(verdicts.get(part, 1.0) == 1.0 for part in PARTS)
    shown = ", ".join(f"{name} {value:.2f}".removesuffix(".00") for name, value in verdicts.items())
    text = "\n".join(answer for answer in row["answers"] if answer)
    return _short(text) or "(empty)", "right" if right else "wrong", shown or "not understood"


def _short(text: str) -> str:
    return text if len(text) <= LENGTH else text[:LENGTH] + " [...]"


def differences(first: Rows, other: Rows) -> list[tuple[str, Interval, int]]:
    """How much each number of `other` exceeds the first's on the turns that both were asked, with intervals over
    trajectories, and the number of turns."""
    shared = [
        key for key, row in first.items()
        if key in other and row["item"] == other[key]["item"] and not row.get("error") and not other[key].get("error")
    ]  # fmt: skip
    found = []
    for part, name in COMPARED.items():
        sums: dict[str, list[float]] = {}
        for key in shared:
            ours, theirs = _value(first[key], part), _value(other[key], part)
            if ours is not None and theirs is not None:
                total = sums.setdefault(first[key]["item"]["data"]["trajectory"], [0.0, 0.0, 0.0])
                total[:] = total[0] + ours, total[1] + theirs, total[2] + 1
        if sums:
            one, two, counts = zip(*sums.values())
            found.append((name, paired_difference(one, counts, two, counts), int(sum(counts))))
    return found


def _value(row: Mapping[str, Any], part: str) -> float | None:
    """A turn's verdict; None where it does not count. What says nothing is read as a call of no tool, as in the
    numbers."""
    plan = row["item"]["groups"]["plan"]
    if plan not in WHERE[part]:
        return None
    value = row["verdicts"][part]["value"]
    if value is None and row["verdicts"]["plan"]["value"] is None:
        return float(part == "plan" and plan == "call")
    return value
