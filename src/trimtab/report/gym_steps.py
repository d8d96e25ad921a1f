"""What a gym's agent did step by step, in parts that a page shows, and no more of them than a page has room for."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from trimtab.common.files import dumps
from trimtab.gym.observation import truncated
from trimtab.report.words import duration

KINDS = {
    "run": "commands", "session": "sessions", "file": "files", "document": "documents", "think": "thoughts",
    "sleep": "sleep", "eval": "submissions", "hint": "hint", "finish": "finish", "null": "malformed calls",
}  # fmt: skip
"""kinds of observations, which have a colour each, and what the page calls them"""
CELLS, STEPS, CHARACTERS = 8_000, 1_000, 2_000_000
"""room of a page: cells of strips, steps of conversations, characters of their texts"""
LINE, SHORT = 140, 60
"""characters of a line that tells of a step, and of a value that needs no place of its own"""
LANES, TICKS = 24, 400
"""sessions that are drawn, and the number of places on their axis"""
NO_TEXT = {"success", "message", "error_message", "observation_type", "timestamp", "source"}

Steps = Sequence[Mapping[str, Any]]


class Room(NamedTuple):
    """What each run may have of a page."""

    cells: int
    steps: int
    text: int
    """characters of one text"""

    @classmethod
    def of(cls, steps: Sequence[int]) -> "Room":
        """For runs of so many steps."""
        runs = max(1, len(steps))
        each = max(20, STEPS // runs)
        shown = sum(min(each, one) for one in steps)
        return cls(max(100, CELLS // runs), each, min(6_000, max(200, CHARACTERS // (2 * max(1, shown)))))


class ShownStep(NamedTuple):
    number: int
    kind: str
    name: str
    about: str
    """the call in a line"""
    outcome: str
    """what came of it, in a line"""
    failed: bool
    when: str
    said: str
    facts: str
    """short values of the call and of its observation"""
    texts: list[tuple[str, str]]
    """(what, text) of the long ones"""


class Cell(NamedTuple):
    number: int
    kind: str
    failed: bool
    hover: str


class Lane(NamedTuple):
    """A session over time, in percent of the whole."""

    name: str
    bars: list[tuple[float, float, bool]]
    """(start, width, whether it was busy)"""


def conversation(steps: Steps, room: Room) -> tuple[list[ShownStep | None], int]:
    """The first and the last steps with their texts, None for those between, and how many these are."""
    shown, left_out = _ends(steps, room.steps)
    return [None if one is None else _step(one, room.text) for one in shown], left_out


def cells(steps: Steps, room: Room) -> tuple[list[Cell | None], int]:
    """Cells of the strip, as `conversation`."""
    shown, left_out = _ends(steps, room.cells)
    return [None if one is None else _cell(one) for one in shown], left_out


def lanes(steps: Steps, seconds: float) -> list[Lane]:
    """Sessions in the order of their first steps. Each is as the observation before has found it."""
    names = list(dict.fromkeys(name for one in steps for name in one["sessions"]))[:LANES]
    if not steps or seconds <= 0:
        return [Lane(name, []) for name in names]
    ticks = [min(TICKS, round(TICKS * float(one["seconds"]) / seconds)) for one in steps]
    spans = [(a, b, one["sessions"]) for (a, b), one in zip(pairwise([*ticks, TICKS]), steps, strict=True)]
    return [Lane(name, _bars(name, spans)) for name in names]


def _bars(name: str, spans: Sequence[tuple[int, int, Mapping[str, str]]]) -> list[tuple[float, float, bool]]:
    """Those of a session, merged while its state stays; what falls on one place is left to what comes later."""
    found: list[list[Any]] = []
    for start, end, states in spans:
        if name not in states or end <= start:
            continue
        busy = states[name] == "busy"
        if found and found[-1][1] == start and found[-1][2] == busy:
            found[-1][1] = end
        else:
            found.append([start, end, busy])
    percent = 100 / TICKS
    return [(start * percent, (end - start) * percent, busy) for start, end, busy in found]


def _ends(steps: Steps, most: int) -> tuple[list[Mapping[str, Any] | None], int]:
    if len(steps) <= most:
        return list(steps), 0
    head = most // 2
    return [*steps[:head], None, *steps[len(steps) - (most - head) :]], len(steps) - most


def _cell(step: Mapping[str, Any]) -> Cell:
    told = _told(step)
    hover = f"{step['step']}, at {_time(step)}: {told[0]} {told[1]} → {told[2]}"
    return Cell(step["step"], _kind(step), not step["observation"]["success"], _line(hover))


def _step(step: Mapping[str, Any], longest: int) -> ShownStep:
    name, about, outcome = _told(step)
    when = f"at {_time(step)}" + (f", took {duration(step['took'])}" if step["took"] >= 1 else "")
    when += f", {step['tokens']:,} tokens" if step["tokens"] else ""
    values = {key: value for key, value in _values(step).items() if value not in (about, outcome)}
    return ShownStep(
        number=step["step"],
        kind=_kind(step),
        name=name,
        about=about,
        outcome="" if outcome == about else outcome,
        failed=not step["observation"]["success"],
        when=when,
        said=truncated(step["said"] or "", longest),
        facts=", ".join(f"{key} {value}" for key, value in values.items() if _is_short(value)),
        texts=[(key, truncated(value, longest)) for key, value in values.items() if not _is_short(value)],
    )


def _values(step: Mapping[str, Any]) -> dict[str, str]:
    """Arguments, and what the observation holds besides: what is in both is told once, with the observation's value."""
    observed = step["observation"]
    found = dict(step["action"].get("arguments") or {})
    message = observed.get("message") or observed.get("error_message")
    found |= {} if message in found.values() else {"outcome": message}
    found |= {key: value for key, value in observed.items() if key not in NO_TEXT}
    return {key: _text(value) for key, value in found.items() if value not in ("", None, [], {})}


def _is_short(text: str) -> bool:
    return len(text) <= SHORT and "\n" not in text


def _told(step: Mapping[str, Any]) -> tuple[str, str, str]:
    """An action's name, what it is about, and what came of it."""
    observed = step["observation"]
    about = next(iter((step["action"].get("arguments") or {}).values()), "")
    outcome = observed.get("message") or observed.get("error_message") or ""
    return step["action"]["name"], _line(_text(about)), _line(str(outcome))


def _time(step: Mapping[str, Any]) -> str:
    return duration(round(step["seconds"], 1))


def _kind(step: Mapping[str, Any]) -> str:
    kind = step["observation"]["observation_type"]
    return kind if kind in KINDS else "null"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else dumps(value)


def _line(text: str) -> str:
    words = " ".join(text[: 4 * LINE].split())
    return words if len(words) <= LINE else f"{words[: LINE - 1]}…"
