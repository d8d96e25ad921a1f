"""One agent at one task: actions in, observations out, within a budget and a sandbox."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from trimtab.common.errors import UserError
from trimtab.gym import actions
from trimtab.gym.actions import Action
from trimtab.gym.budget import GymBudget
from trimtab.gym.documents import Documents
from trimtab.gym.evaluation import EvaluationError, GymScores, evaluate, packages
from trimtab.gym.file_actions import Done, FileActions, View
from trimtab.gym.guard import Guard
from trimtab.gym.observation import ActionFailed, GymObservation
from trimtab.gym.sandbox import Engine, Sandbox, find_engine
from trimtab.gym.session import Session
from trimtab.gym.session_actions import SessionActions
from trimtab.gym.submissions import Submissions, pack
from trimtab.gym.task import GymTask
from trimtab.gym.workspace import Workspace

KINDS = {
    "run_command": "run", "think": "think", "sleep": "sleep", "eval": "eval", "view_hint": "hint", "finish": "finish",
    "null": "null", "search_documents": "document", "open_document": "document",
}  # fmt: skip
"""kind of an action's observation, where it is not "session" or "file" """


class Episode:
    """A task that is being worked on. Used in a `with` block, or ended by `close`.

    Args:
        folder: a new folder for the workspace and the submissions, or one of an episode whose `state` is given.
        unsafe: run commands without a sandbox where there is none.
        clock: seconds that never go back.
        state: a `state()` of before: counts go on from there; sessions are lost.

    Raises:
        SandboxError: if there is no sandbox on this machine.
    """

    def __init__(
        self,
        task: GymTask,
        folder: Path,
        *,
        unsafe: bool = False,
        clock: Callable[[], float] = time.monotonic,
        state: dict[str, Any] | None = None,
    ):
        self.task, self.folder = task, folder
        self.engine: Engine = "none" if unsafe else find_engine()
        place, quota = folder / "workspace", task.settings.quota
        if state is None:
            self.workspace = Workspace.create(place, task.workspace, quota)
        else:
            self.workspace = Workspace.adopt(place, quota)
        state = state or {}
        self.budget = GymBudget(task.settings.budget, clock, state.get("budget"))
        self.submissions = Submissions(folder / "submissions")
        self.hint_seen = bool(state.get("hint_seen"))
        self.finished = bool(state.get("finished"))
        self._last = str(state.get("last_action", ""))
        self.sessions = SessionActions(self._open, self.budget.left, self.over)
        self.guard = Guard(
            self.workspace, self.budget, task.settings.limits.memory, lambda: list(self.sessions.sessions.values())
        )
        self.files = FileActions(self.workspace, Documents(task.documents), View(**state.get("view", {})))
        self._handlers: dict[type[Action], Callable[[Any], Done]] = {
            **self.sessions.handlers,
            **self.files.handlers,
            actions.Sleep: self.sessions.sleep,
            actions.Think: self._think,
            actions.Submit: self._submit,
            actions.ViewHint: self._hint,
            actions.Finish: self._finish,
        }

    def tools(self) -> list[dict[str, Any]]:
        """Those of the task."""
        return self.task.tools()

    def over(self) -> str | None:
        """Why the episode is over; None while it is not."""
        return "the agent has finished" if self.finished else self.budget.over()

    def call(self, name: object, arguments: object = None) -> GymObservation:
        """Carry out a call as a model wrote it; one that is malformed is the action Null."""
        return self.step(actions.parse(name, arguments))

    def step(self, action: Action) -> GymObservation:
        """Carry out an action. Nothing that an agent does is an exception."""
        self.budget.begin()
        if (why := self.over()) is not None:
            return self._observation(action, False, f"the episode is over: {why}", {})
        try:
            if isinstance(action, actions.Null):
                raise ActionFailed(action.reason, {})
            message, fields = self._handlers[type(action)](action)
            found = self._observation(action, True, message, fields)
        except UserError as failed:
            fields = failed.fields if isinstance(failed, ActionFailed) else {}
            found = self._observation(action, False, str(failed), fields)
        self.budget.steps += 1  # now: as long as it is carried out, its session is not over
        self._last = action.name
        return found

    def end(self) -> dict[str, Any]:
        """End the episode with the forced final evaluation.

        Returns:
            `result`.
        """
        self.ended = self.ended or self.over() or "the agent has stopped"
        if not any(one.final for one in self.submissions.records):
            self.sessions.close_all()
            try:
                self._evaluated(final=True)
            except UserError as failed:
                self.final_error = str(failed)
        self.finished = True
        return self.result()

    final_error = ended = ""
    """why there is no final evaluation, where there is none; why the episode has ended, once it has"""

    def result(self) -> dict[str, Any]:
        """Scores so far: `final` and `best` (public) are the paper's, `private` that of the final submission on the
        private split; None for those that there are none of."""
        records = self.submissions.records
        final = next((one for one in records if one.final), None)
        best = max(records, key=lambda one: one.score, default=None)
        return {
            "task": self.task.name,
            "version": self.task.version(),
            "isolation": self.engine,
            "final": None if final is None else self._less_hint(final.score),
            "private": None if final is None else self._less_hint(final.private_score),
            "best": None if best is None else self._less_hint(best.score),
            "best_private": None if best is None else self._less_hint(best.private_score),
            "hint_seen": self.hint_seen,
            "over": self.ended or self.over(),
            "error": self.final_error,
            "budget": self.budget.state(),
            "submissions": [asdict(one) for one in records],
        }

    def state(self) -> dict[str, Any]:
        """What a snapshot keeps besides the folder, as JSON."""
        return {
            "task": self.task.name,
            "version": self.task.version(),
            "budget": self.budget.state(),
            "hint_seen": self.hint_seen,
            "finished": self.finished,
            "last_action": self._last,
            "view": asdict(self.files.view),
            "sessions": sorted(self.sessions.sessions),
        }

    def close(self) -> None:
        """End what runs; the folder stays."""
        self.sessions.close_all()
        self.workspace.close()

    def remove(self) -> None:
        """End what runs, and delete the workspace."""
        self.sessions.close_all()
        self.workspace.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sandbox(self) -> Sandbox:
        """What its commands run in."""
        settings = self.task.settings
        read = tuple(packages(self.task))
        path = os.pathsep.join(dict.fromkeys(str(one.parent) for one in read))
        return Sandbox(
            self.workspace.folder,
            engine=self.engine,
            uid=self.workspace.uid,
            limits=settings.limits,
            readable=read,
            masked=(self.task.folder, self.folder),
            environment={**({"PYTHONPATH": path} if path else {}), **settings.environment},
        )

    def _open(self, name: str) -> Session:
        return Session(name, self.sandbox(), self.guard.look)

    def _think(self, _: actions.Think) -> Done:
        if self._last == "think":
            raise ActionFailed("think is not allowed twice in a row; act", {})
        return "noted", {}

    def _hint(self, _: actions.ViewHint) -> Done:
        if self.task.hint is None:
            raise ActionFailed("this task has no hint", {})
        self.hint_seen = True
        return self.task.hint, {"cost": self.task.settings.hint_cost}

    def _finish(self, _: actions.Finish) -> Done:
        self.finished = True
        return "the task is finished", {}

    def _submit(self, _: actions.Submit) -> Done:
        allowed = self.budget.limits.submissions
        if self.budget.submissions >= allowed:
            self.budget.submissions += 1
            raise ActionFailed(
                f"all {allowed} submissions are used up: score 0, and the episode ends", {"overall_score": 0.0}
            )
        return self._evaluated(final=False)

    def _evaluated(self, final: bool) -> Done:
        """Hand in the outputs as they are, and have them scored."""
        if not final and self.budget.evaluation_left() == 0:
            allowed = self.budget.limits.evaluation_seconds
            raise ActionFailed(f"all {allowed:g} seconds for evaluations are used up; the final one is made", {})
        archive, left_out = pack(self.workspace, self.task.settings.outputs)
        left = None if final else min(self.budget.evaluation_left(), self.budget.left())
        began = time.monotonic()
        try:
            found = evaluate(self.task, archive, self.engine, left)
        except EvaluationError as failed:
            with (self.folder / "evaluator.log").open("a", encoding="utf-8") as log:
                log.write(f"{failed}\n{failed.log}\n")
            raise ActionFailed(self._excuse(failed, final), {}) from failed
        finally:
            self.budget.evaluation_seconds += time.monotonic() - began
        if not final:
            self.budget.submissions += 1
        return self._kept(archive, found, left_out, final)

    def _excuse(self, failed: EvaluationError, final: bool) -> str:
        """What is said of an evaluation that failed: to the agent, and of the final one to whoever reads the result."""
        if final:
            return f"{failed}; {self.folder / 'evaluator.log'} says why"
        if (over := self.over()) is not None:
            return f"{failed}: {over}; it costs no submission"
        return f"{failed}; that is not your fault and costs no submission"

    def _kept(self, archive: bytes, found: GymScores, left_out: list[str], final: bool) -> Done:
        notes = [found.message] if found.message else []
        if left_out:
            named = ", ".join(left_out[:5])
            notes.append(f"{len(left_out)} of the outputs are no regular files and were left out: {named}")
        record = self.submissions.add(
            archive,
            task=self.task.name,
            version=self.task.version(),
            seconds=round(self.budget.seconds, 3),
            score=found.score,
            private_score=found.private_score,
            metrics=found.metrics,
            private_metrics=found.private_metrics,
            message="; ".join(notes),
            final=final,
        )
        fields = {
            "overall_score": round(found.score, 4),
            "already_eval_num": self.budget.submissions,
            "evals_left": self.budget.limits.submissions - self.budget.submissions,
            "metrics": found.metrics,
        }
        return record.message or f"score {found.score:.2f}", fields

    def _less_hint(self, score: float) -> float:
        return max(0.0, score - self.task.settings.hint_cost) if self.hint_seen else score

    def _observation(self, action: Action, success: bool, message: str, fields: dict[str, Any]) -> GymObservation:
        kind = KINDS.get(action.name, "session" if type(action) in self.sessions.handlers else "file")
        hide = self.workspace.hide
        shown = {key: hide(value) if isinstance(value, str) else value for key, value in fields.items()}
        return GymObservation(kind, action.name, success, hide(message), shown)
