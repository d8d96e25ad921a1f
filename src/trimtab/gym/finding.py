"""Tasks by name or by folder, and the task of a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.common.errors import check_known
from trimtab.gym.task import TASKS, GymTask, TaskError, load_task
from trimtab.gym.trajectory import GymRunError


def bundled() -> list[str]:
    """Names of the tasks that come with trimtab."""
    return sorted(path.parent.name for path in TASKS.glob("*/task.yaml"))


def find_task(word: str) -> GymTask:
    """A task that comes with trimtab, by its name, or another one, by its folder or its YAML of InnovatorBench.

    Raises:
        TaskError: if there is none, with the nearest name, or if it is not complete.
    """
    if word in bundled():
        return load_task(TASKS / word)
    place = Path(word).expanduser()
    if not place.exists() and "/" not in word:
        check_known(word, bundled(), "task", "tasks", TaskError)
    return load_task(place)


def task_folder(word: str) -> str | None:
    """Where `find_task` has found a task; None for one that comes with trimtab."""
    return None if word in bundled() else str(Path(word).expanduser().resolve())


def task_of(run: Path, result: Mapping[str, Any]) -> GymTask:
    """The task of a run.

    Args:
        result: what its `gym.json` holds.

    Raises:
        TaskError: if it is not there any more.
        GymRunError: if it is of another version now.
    """
    task = find_task(result.get("task_folder") or result["task"])
    if task.version() != result["version"]:
        raise GymRunError(
            f"{run} is a run of {result['task']} {result['version']}, which is {task.version()} now: scores of other "
            "versions do not compare"
        )
    return task
