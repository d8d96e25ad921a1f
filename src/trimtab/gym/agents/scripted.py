"""Agents that work through a list of actions: a task's own solution, a file, or a run that is done again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from trimtab.common.errors import UserError
from trimtab.common.files import read_jsonl, read_text
from trimtab.common.yaml_text import Loader
from trimtab.gym import actions
from trimtab.gym.actions import SLEEP, Action, parse
from trimtab.gym.agents import Briefing, Memory, Move, Pace
from trimtab.gym.solutions import SCRIPT, solution_files
from trimtab.gym.task import GymTask
from trimtab.gym.trajectory import TRAJECTORY

ENDING = (actions.KillSessionProcesses, actions.CloseSession, actions.CloseAllSessions, actions.InputInSession,
          actions.Sleep)  # fmt: skip
"""actions by which a session becomes idle that was busy before"""
PATIENCE = 0.2
"""the part of a training's time after which an impatient agent kills it"""


class ScriptError(UserError):
    """A list of actions that cannot be carried out."""


class Scripted:
    """Carries out a list of actions, whatever comes of them."""

    name: ClassVar[str] = "scripted"

    def __init__(self, moves: Sequence[Move]):
        self.moves, self.at = moves, 0

    def begin(self, briefing: Briefing) -> None: ...

    def act(self, seen: Mapping[str, Any] | None, left: float) -> Move | None:
        if self.at >= len(self.moves):
            return None
        self.at += 1
        return self.moves[self.at - 1]

    def tell(self, text: str) -> None: ...

    def memory(self) -> Memory:
        return {"at": self.at}

    def recall(self, memory: Memory) -> None:
        self.at = memory["at"]


class Impatient(Scripted):
    """Does the same, but kills what it waits for after a fifth of the time that the script gives it, or that it took in
    the run: the failure that the paper describes."""

    name: ClassVar[str] = "impatient"

    def __init__(self, moves: Sequence[Move]):
        super().__init__([short for move in moves for short in _impatient(move)])


def _impatient(move: Move) -> list[Move]:
    action = move.action
    if not isinstance(action, actions.Sleep) or action.session_id is None:
        return [move]
    whole = action.seconds if move.pace.took is None else max(move.pace.took, 1e-3)
    short = actions.Sleep(seconds=PATIENCE * whole, session_id=action.session_id)
    return [move._replace(action=short), Move(actions.KillSessionProcesses(session_id=action.session_id, force=True))]


# ---------------------------------------------------------------- scripts


def reference(task: GymTask, name: str = "reference") -> list[Move]:
    """A task's solution as actions: its files are created, and its solve.py is run.

    Raises:
        TaskError: if it has none.
        ScriptError: if a file is no text.
    """
    found: list[Action] = []
    files = solution_files(task, name)
    for path, place in files.items():
        try:
            found.append(actions.CreateFile(filename=path, content=place.read_bytes().decode()))
        except UnicodeDecodeError as error:
            raise ScriptError(f"{place} is no text, so that no action creates it; let {SCRIPT} make it") from error
    if SCRIPT in files:
        found.append(actions.RunCommand(command=f"python3 {SCRIPT}"))
        found.append(actions.Sleep(seconds=SLEEP, session_id="main"))
        found.append(actions.GetSessionOutput(start_lines=50, end_lines=0))
    return [Move(one) for one in (*found, actions.Finish())]


def read_script(path: Path) -> list[Move]:
    """A list of actions from a file, each {"name": ..., "arguments": ...}, as YAML or JSON lines; or those of a run,
    from its folder or its trajectory, which are done at the same pace.

    Raises:
        ScriptError: naming what is wrong.
    """
    if path.is_dir():
        path /= TRAJECTORY
    if path.suffix in (".yaml", ".yml"):
        try:
            rows = yaml.load(read_text(path), Loader)
        except yaml.YAMLError as error:
            raise ScriptError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
    else:
        rows = [row for _, row in read_jsonl(path)]
    if not isinstance(rows, list) or not rows:
        raise ScriptError(f"{path} is no list of actions; write - name: ACTION and its arguments: for each")
    stored = all(isinstance(row, Mapping) and {"action", "sessions", "seconds", "took"} <= row.keys() for row in rows)
    moves = [_move(row["action"] if stored else row, f"{path}: action {number}") for number, row in enumerate(rows, 1)]
    if not stored:
        return moves
    befores = [None, *rows[:-1]]
    return [_replayed(move, row, before) for move, row, before in zip(moves, rows, befores)]


def _move(row: Any, where: str) -> Move:
    if not isinstance(row, Mapping) or "name" not in row or row.keys() - {"name", "arguments"}:
        raise ScriptError(f'{where} is not {{"name": ..., "arguments": {{...}}}}')
    if row["name"] == actions.Null.name:
        return Move(actions.Null(reason=str((row.get("arguments") or {}).get("reason", ""))))
    action = parse(row["name"], row.get("arguments"))
    if isinstance(action, actions.Null):
        raise ScriptError(f"{where}: {action.reason}")
    return Move(action)


def _replayed(move: Move, row: Mapping[str, Any], before: Mapping[str, Any] | None) -> Move:
    """A step that waits as long as it did where something ran meanwhile, and until what had ended has ended."""
    running = before is not None and "busy" in before["sessions"].values()
    gap = row["seconds"] - row["took"] - before["seconds"] if before is not None and running else 0.0
    idle = tuple(name for name, state in row["sessions"].items() if state == "idle")
    action = move.action
    if isinstance(action, actions.RunCommand) and row["observation"]["success"]:
        idle = (*idle, action.session_id)
    if isinstance(action, ENDING):
        idle = ()
    return move._replace(pace=Pace(max(0.0, gap), idle, row["took"]))
