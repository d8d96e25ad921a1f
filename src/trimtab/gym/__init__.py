"""A research gym: agents work on research tasks on this machine, in a sandbox and within a budget."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trimtab.gym.episode import Episode
    from trimtab.gym.judging import JudgedRun, Rejected, Submitted
    from trimtab.gym.task import GymTask, load_task

_ELSEWHERE = {
    "Episode": "episode", "GymTask": "task", "JudgedRun": "judging", "Rejected": "judging", "Submitted": "judging",
    "load_task": "task",
}  # fmt: skip
__all__ = ["Episode", "GymTask", "JudgedRun", "Rejected", "Submitted", "load_task"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'trimtab.gym' has no attribute {name!r}")
    return getattr(importlib.import_module(f"trimtab.gym.{_ELSEWHERE[name]}"), name)
