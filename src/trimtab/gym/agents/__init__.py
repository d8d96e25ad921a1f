"""Who acts in an episode: agents that see observations and say what to do next."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from trimtab.gym.actions import Action

Memory = dict[str, Any]
"""what an agent remembers, as JSON"""


@dataclass(frozen=True)
class Pace:
    """When a replayed action is done."""

    seconds: float = 0.0
    """after the one before"""
    idle: tuple[str, ...] = ()
    """sessions that have to be idle"""
    took: float | None = None
    """how long it took before"""


class Move(NamedTuple):
    """What an agent does next."""

    action: Action
    said: str | None = None
    """its words beside the call"""
    tokens: int | None = None
    """of the model's call, read and written"""
    pace: Pace = Pace()


@dataclass(frozen=True)
class Briefing:
    """What an agent is told before its first action."""

    task: str
    """the description"""
    tools: list[dict[str, Any]]
    seconds: float
    """of wall clock in all"""


class GymAgent(Protocol):
    """Acts step by step. What it remembers from one step to the next goes into snapshots."""

    name: ClassVar[str]

    def begin(self, briefing: Briefing) -> None:
        """Hear of the task, at the beginning and whenever a run goes on."""
        ...

    def act(self, seen: Mapping[str, Any] | None, left: float) -> Move | None:
        """What to do next; None if nothing.

        Args:
            seen: the last observation, None before the first action.
            left: seconds of wall clock.
        """
        ...

    def tell(self, text: str) -> None:
        """Hear something that is no observation."""
        ...

    def memory(self) -> Memory: ...

    def recall(self, memory: Memory) -> None: ...
