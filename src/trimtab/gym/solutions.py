"""The solutions that a task comes with, carried out where an agent would: in the workspace and in the sandbox."""

from pathlib import Path

from trimtab.gym.episode import Episode
from trimtab.gym.task import GymTask, TaskError

SCRIPT = "solve.py"


def solution_files(task: GymTask, name: str) -> dict[str, Path]:
    """Path in the workspace -> file of a solution.

    Raises:
        TaskError: if there is none.
    """
    folder = task.solution(name)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    files = {path: place for path, place in files.items() if "__pycache__" not in path}
    if not files:
        raise TaskError(f"{task.folder} has no solution {name!r}; add files in {folder.name}/")
    return files


def lay_over(episode: Episode, name: str, seconds: float = 600.0) -> None:
    """Lay the files of a solution over the workspace, and run its solve.py there if it has one.

    Args:
        name: of the solution's folder in the task: "baseline" or "reference"; or the path of another one.
        seconds: after which solve.py is killed.

    Raises:
        TaskError: if the task has no such solution, or its solve.py fails.
    """
    files = solution_files(episode.task, name)
    for path, place in files.items():
        episode.workspace.write(path, place.read_bytes())
    if SCRIPT not in files:
        return
    ran = episode.sandbox().run(["python3", SCRIPT], seconds)
    if ran.timed_out or ran.code != 0:
        last = ran.error.decode(errors="replace").strip().rpartition("\n")[2]
        why = f"took longer than {seconds:g} seconds" if ran.timed_out else f"ended with {ran.code}: {last}"
        raise TaskError(f"{files[SCRIPT]} {why}")
