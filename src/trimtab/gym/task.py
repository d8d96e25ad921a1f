"""A research task: a folder with what an agent is told and given, how it is scored, and what it may use."""

import hashlib
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path, PurePosixPath
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from trimtab.common.errors import UserError, check_settings
from trimtab.common.files import read_text
from trimtab.common.options import Options
from trimtab.common.yaml_text import read_tree
from trimtab.gym.actions import schemas
from trimtab.gym.budget import BudgetLimits
from trimtab.gym.sandbox import SandboxLimits
from trimtab.gym.workspace import Quota

FILES = {
    "task.yaml": "its settings",
    "description.md": "what the agent is told",
    "workspace": "the folder that the agent gets a copy of",
    "evaluator.py": "a function validate(submitted)",
}
TASKS = Path(__file__).parent / "tasks"
"""task folders that come with trimtab; sandboxes see none of them"""
SEED = "SEED"
"""the variable that holds the seed of what is random in a task"""
REFERENCE_SCORE = 80.0
"""what the reference gets; beating it by a quarter of its lead over the baseline gives 100"""


class TaskError(UserError):
    """A task folder that is not complete."""


class Anchors(Options):
    """A metric, and the two values that its score is measured by. Lower is better where the reference is below."""

    name: str
    """As the evaluator calls it."""
    baseline: float
    """Value of the baseline, which scores 0."""
    reference: float
    """Value of the reference, which scores 80."""
    weight: float = Field(default=1.0, gt=0)
    """Share of the score."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        if self.baseline == self.reference:
            raise ValueError(f"baseline and reference are both {self.baseline:g}; a score needs two values")
        return self

    def score(self, value: float) -> float:
        """Points of a value, from 0 to 100."""
        return min(max(self.points(value), 0.0), 100.0)

    def points(self, value: float) -> float:
        """The same without an end on either side."""
        return REFERENCE_SCORE * (value - self.baseline) / (self.reference - self.baseline)


class TaskSettings(Options):
    """Settings of a task, in its task.yaml."""

    title: str
    """What it is about, in a line."""
    licence: str = Field(min_length=1)
    """Licence of the task and of its data."""
    metrics: tuple[Anchors, ...] = Field(min_length=1)
    """What the evaluator returns, and what is good."""
    domain: str = ""
    """Such as "data filtering"."""
    source: str = ""
    """Paper or data that it comes from."""
    outputs: tuple[str, ...] = ("outputs",)
    """Files and folders of the workspace that a submission holds."""
    budget: BudgetLimits = BudgetLimits()
    """What an agent may use."""
    quota: Quota = Quota()
    """What the workspace may hold."""
    limits: SandboxLimits = SandboxLimits()
    """What processes may use."""
    evaluation_seconds: float = Field(default=600.0, gt=0)
    """Time of one evaluation."""
    hint_cost: float = Field(default=0.0, ge=0, le=100)
    """Points that the hint costs."""
    readable: tuple[str, ...] = ()
    """Python packages that commands may import although they lie outside of the environment, such as trimtab."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Variables that commands see."""

    @field_validator("outputs")
    @classmethod
    def _within(cls, outputs: tuple[str, ...]) -> tuple[str, ...]:
        for one in outputs:
            if PurePosixPath(one).is_absolute() or ".." in PurePosixPath(one).parts or one in ("", "."):
                raise ValueError(f"{one!r} is not a path below the workspace")
        for one, other in permutations(outputs, 2):
            if PurePosixPath(one).is_relative_to(other):
                raise ValueError(f"{one!r} lies in {other!r}; name it once")
        return outputs

    @field_validator("metrics")
    @classmethod
    def _each_once(cls, metrics: tuple[Anchors, ...]) -> tuple[Anchors, ...]:
        names = [one.name for one in metrics]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"{twice} is named twice; each metric has one baseline and one reference")
        return metrics


@dataclass(frozen=True)
class GymTask:
    """A task folder."""

    name: str
    folder: Path
    settings: TaskSettings
    notes: tuple[str, ...] = ()
    """what is done in another way than its format says"""

    @property
    def description(self) -> str:
        return read_text(self.folder / "description.md")

    @property
    def hint(self) -> str | None:
        path = self.folder / "hint.md"
        return read_text(path) if path.is_file() else None

    def tools(self) -> list[dict[str, Any]]:
        """The actions that it allows, as tools: name, description and JSON schema of the parameters."""
        return schemas(*([] if self.hint else ["view_hint"]))

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    @property
    def evaluator(self) -> Path:
        return self.folder / "evaluator.py"

    @property
    def hidden(self) -> Path:
        """What the evaluator alone reads; it need not exist."""
        return self.folder / "hidden"

    @property
    def documents(self) -> Path:
        """Texts that the agent can search; it need not exist."""
        return self.folder / "documents"

    def solution(self, name: str) -> Path:
        """Files that are laid over the workspace: those of "baseline" or "reference"."""
        return self.folder / name

    def seeded(self, seed: int) -> "GymTask":
        """The same task with another seed, which commands and the evaluator (`submitted.seed`) see; by default 0."""
        environment = {**self.settings.environment, SEED: str(seed)}
        return replace(self, settings=self.settings.model_copy(update={"environment": environment}))

    def version(self) -> str:
        """A digest of all its files: scores of other versions do not compare."""
        digest = hashlib.sha256()
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                data = path.read_bytes()
                digest.update(f"{path.relative_to(self.folder).as_posix()}\0{len(data)}\0".encode() + data)
        return digest.hexdigest()[:16]

    def score(self, values: dict[str, float]) -> float:
        """Points of all metrics together, from 0 to 100."""
        total = sum(one.weight for one in self.settings.metrics)
        points = sum(one.weight / total * one.score(values[one.name]) for one in self.settings.metrics)
        return min(100.0, points)


def load_task(folder: Path) -> GymTask:
    """A task from its folder, or one in the format of InnovatorBench (`load_innovatorbench`).

    Raises:
        TaskError: naming what is missing or wrong.
    """
    from trimtab.gym.innovatorbench import is_innovatorbench, load_innovatorbench

    if is_innovatorbench(folder):
        return load_innovatorbench(folder)
    if not folder.is_dir():
        raise TaskError(f"there is no task folder {folder}")
    for name, what in FILES.items():
        if not ((folder / name).is_dir() if name == "workspace" else (folder / name).is_file()):
            raise TaskError(f"{folder} has no {name} ({what}); add it, or name another folder")
    place = folder / "task.yaml"
    tree = read_tree(place, TaskError)
    for key, what in (("licence", "of the task and its data"), ("metrics", "with a baseline and a reference each")):
        if not tree.get(key):
            raise TaskError(f"{place} has no {key}; add it ({what})")
    settings = check_settings(TaskSettings, tree, str(place), f"{place}: ", TaskError)
    return GymTask(folder.resolve().name, folder.resolve(), settings)
