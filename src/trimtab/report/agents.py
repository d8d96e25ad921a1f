"""The page of `trimtab agent show`: trajectories turn by turn, with what each role said."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from trimtab.common.count import count
from trimtab.common.files import write_atomic
from trimtab.data.trajectories import CALL, CONCLUDE, GIVE_UP, Step, Trajectory, call_of, name_of, thought_of
from trimtab.report.html import template

SHOWN = 200
"""trajectories that a page holds"""
ROLES = {"user": "task", "assistant": "planner", "caller": "caller", "observation": "tool", "conclusion": "summariser"}
"""turn -> who speaks, as the page calls it"""
FOLLOWS = {CALL: "the caller goes on", CONCLUDE: "the summariser goes on", GIVE_UP: "gives up"}
CHECKS = ("state", "answer", "success")
"""what a checker says of a trajectory"""
FAILED = "error: "
"""how observations of failed calls begin"""


class ShownTurn(NamedTuple):
    """A turn as the page has it."""

    number: int
    role: str
    """the class of its colour"""
    who: str
    text: str
    note: str = ""
    failed: bool = False


class ShownTrajectory(NamedTuple):
    number: int
    task: str
    ended: str
    good: bool | None
    """whether it solved its task, where that is known"""
    facts: list[str]
    tools: list[tuple[str, str]]
    """name, and what it does"""
    turns: list[ShownTurn]
    left: list[list[ShownTurn]]
    """branches that a search has left"""


def write(source: str, rows: Sequence[tuple[Mapping[str, Any], Trajectory]], output: Path) -> Path:
    """One HTML file that needs no network; what was there is replaced at once or, on an error, not at all.

    Args:
        source: where the rows come from.
        rows: with their trajectories, of which the first `SHOWN` are shown.
        output: the file.
    """
    shown = [_trajectory(number, row, found) for number, (row, found) in enumerate(rows, start=1)]
    text = template("agents.html").render(
        source=source,
        headline=_headline(shown),
        facts=_facts(rows, shown),
        trajectories=shown[:SHOWN],
        cut=max(len(shown) - SHOWN, 0),
    )
    return write_atomic(output, text)


def _headline(shown: Sequence[ShownTrajectory]) -> str:
    known = [one.good for one in shown if one.good is not None]
    if known:
        return f"{sum(known)} of {count(len(known), 'task')} solved"
    answered = sum(one.ended == "conclusion" for one in shown)
    return f"{count(len(shown), 'trajectory', 'trajectories')}, {answered} with an answer"


def _facts(rows: Sequence[tuple[Mapping[str, Any], Trajectory]], shown: Sequence[ShownTrajectory]) -> list[str]:
    ends = Counter(one.ended for one in shown)
    calls = sum(step.role == "caller" for _, found in rows for step in found.steps)
    counted: Counter[str] = Counter()
    for row, _ in rows:
        counted.update({str(k): v for k, v in dict(row.get("counts") or {}).items() if isinstance(v, int)})
    counted.pop("calls", None)
    return [
        *(f"{number} ended with: {how}" for how, number in ends.most_common()),
        f"{calls / max(len(rows), 1):.1f} calls a task",
        *(f"{number} {what}" for what, number in counted.most_common()),
    ]


def _trajectory(number: int, row: Mapping[str, Any], found: Trajectory) -> ShownTrajectory:
    checked = row.get("checked") or {key: row[key] for key in CHECKS if isinstance(row.get(key), bool)}
    checked = checked if isinstance(checked, Mapping) and "success" in checked else None
    good = None if checked is None else bool(checked["success"])
    facts = [f"{key}: {'yes' if value else 'no'}" for key, value in (checked or {}).items()]
    if isinstance(row.get("seconds"), (int, float)):
        facts.append(f"{row['seconds']:.1f} s")
    if row.get("reason"):
        facts.append(str(row["reason"]))
    left = [
        [Step(turn["from"], str(turn["value"])) for turn in branch if turn.get("from") in ROLES]
        for branch in row.get("left") or ()
    ]
    tools = [(name_of(tool), str(tool.get("function", tool).get("description", ""))) for tool in found.tools]
    ended = str(row.get("ended") or _ended(found))
    return ShownTrajectory(
        number, found.instruction, ended, good, facts, tools, turns_of(found.steps), [turns_of(one) for one in left]
    )


def _ended(found: Trajectory) -> str:
    """How a trajectory ends whose row does not say so."""
    last = found.steps[-1]
    if last.role == "conclusion":
        return "conclusion"
    return "gave up" if last.role == "assistant" and thought_of(last.value)[1] == GIVE_UP else "no answer"


def turns_of(steps: Sequence[Step]) -> list[ShownTurn]:
    """Turns with who speaks, thoughts without their marker, calls as name and arguments."""
    return [_turn(number, step) for number, step in enumerate(steps, start=1)]


def _turn(number: int, step: Step) -> ShownTurn:
    who = ROLES[step.role]
    if step.role == "assistant":
        thought, following = thought_of(step.value)
        return ShownTurn(number, step.role, who, thought or "(no thought)", FOLLOWS.get(str(following), "no marker"))
    if step.role == "caller":
        call = call_of(step.value)
        if call.name == "none":
            return ShownTurn(number, step.role, who, step.value, "no call", True)
        return ShownTurn(number, step.role, who, call.arguments, call.name)
    failed = step.role == "observation" and step.value.startswith(FAILED)
    return ShownTurn(number, step.role, who, step.value, "failed" if failed else "", failed)
