"""What a run of an agent leaves: `trajectory.jsonl`, a line for each step, and `gym.json`, what came of it all."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab import __version__
from trimtab.common.errors import UserError
from trimtab.common.files import JsonLines, RecordError, json_line, read_json, records, write_atomic
from trimtab.gym.actions import Action
from trimtab.gym.episode import Episode
from trimtab.gym.observation import GymObservation

TRAJECTORY, RESULT = "trajectory.jsonl", "gym.json"
KEYS = ("step", "seconds", "took", "action", "observation", "said", "tokens", "sessions")
"""of a line"""


def _has(keys: Iterable[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and set(keys) <= value.keys()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_score(value: Any) -> bool:
    return value is None or _is_number(value)


RESULTS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("task", "version", "agent"), lambda value: isinstance(value, str)),
    **dict.fromkeys(("final", "private", "best"), _is_score),
    "budget": _has(("steps", "seconds")),
    "submissions": lambda value: (
        isinstance(value, list) and all(map(_has(("number", "sha256", "seconds", "score", "private_score")), value))
    ),
}
"""key of a result -> whether a value fits; others are shown where they are there"""


class GymRunError(UserError):
    """A folder that holds no run, or one that cannot go on."""


@dataclass(frozen=True)
class RunFacts:
    """Who works on what, as `gym.json` holds it besides the result of the episode."""

    agent: str
    title: str
    """of the task"""
    model: str | None = None
    seed: int = 0
    task_folder: str | None = None
    """None for a task that comes with trimtab"""


class GymTrajectory(JsonLines):
    """The steps of a run, each appended when its observation has come. A torn last line is cut off."""

    def __init__(self, folder: Path):
        super().__init__(folder / TRAJECTORY, *KEYS, what="steps", error=GymRunError)

    def add(
        self,
        episode: Episode,
        action: Action,
        observation: GymObservation,
        took: float,
        said: str | None = None,
        tokens: int | None = None,
    ) -> dict[str, Any]:
        """Append a step.

        Args:
            took: seconds of the action.
            said: the model's words beside the call.
            tokens: of the model's call, read and written.
        """
        sessions = {name: "idle" if one.idle else "busy" for name, one in episode.sessions.sessions.items()}
        row = {
            "step": len(self.rows) + 1,
            "seconds": round(episode.budget.seconds, 3),
            "took": round(took, 3),
            "action": {"name": action.name, "arguments": action.model_dump(mode="json")},
            "observation": observation.to_dict(),
            "said": said,
            "tokens": tokens,
            "sessions": sessions,
        }
        self.append([row])
        return row


def write_result(episode: Episode, facts: RunFacts) -> dict[str, Any]:
    """Write `gym.json` as things stand."""
    found = {**episode.result(), **vars(facts), "trimtab": __version__}
    write_atomic(episode.folder / RESULT, json_line(found, indent=1))
    return found


def read_result(folder: Path) -> Mapping[str, Any]:
    """What `gym.json` of a run holds.

    Raises:
        GymRunError: if there is none.
    """
    path = folder / RESULT
    if not path.is_file():
        raise GymRunError(f"{folder} is not a run of `trimtab gym run`: it has no {RESULT}")
    found = read_json(path)
    if not isinstance(found, dict):
        raise GymRunError(f"{path} is not what `trimtab gym run` writes")
    for key, fits in RESULTS.items():
        if key not in found or not fits(found[key]):
            raise GymRunError(f"{path} is not what `trimtab gym run` writes: {key}")
    return found


def read_steps(folder: Path) -> list[dict[str, Any]]:
    """The steps of a run so far; nothing is written, and a line that is just being written is left out.

    Raises:
        GymRunError: at a line that is no step.
    """
    path = folder / TRAJECTORY
    data = path.read_bytes() if path.is_file() else b""
    try:
        rows = list(records(data[: data.rfind(b"\n") + 1], *KEYS))
    except RecordError as failed:
        raise GymRunError(f"{path}, line {failed.line}: not a step; repair or delete the line") from None
    for number, row in enumerate(rows, start=1):
        if (fault := _fault(row)) is not None:
            raise GymRunError(f"{path}, step {number}: its {fault}")
    return rows


def _fault(row: Mapping[str, Any]) -> str | None:
    """What is wrong with a step that has all keys."""
    action, observed = row["action"], row["observation"]
    if not isinstance(action, dict) or not isinstance(action.get("name"), str):
        return "action has no name"
    if not isinstance(action.get("arguments"), dict):
        return "action has no arguments"
    if not _has(("success", "observation_type"))(observed):
        return "observation says neither its type nor whether it succeeded"
    if action["name"] == "eval" and observed["success"] and not _is_number(observed.get("overall_score")):
        return "evaluation has no score"
    if not isinstance(row["sessions"], dict):
        return "sessions are no states"
    for key, verb in (("seconds", "are"), ("took", "is")):
        if not _is_number(row[key]):
            return f"{key} {verb} no number"
    return None
