"""Trajectories turn by turn: what tools said, what the reference does there, and what each model did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SHOWN, LENGTH = 50, 1000
"""trajectories of a page; characters of a text"""
PARTS = ("plan", "action", "arguments")
"""verdicts that a turn is right by"""


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


def trajectories(rows: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[TrajectoryRows]:
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


def _of(name: str, items: list[dict[str, Any]], rows: Sequence[Mapping[str, Mapping[str, Any]]]) -> TrajectoryRows:
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
