"""What an episode may use, and what it has used."""

import time
from collections.abc import Callable
from typing import Any

from pydantic import Field

from trimtab.common.options import Options


class BudgetLimits(Options):
    """What an agent may use for a task."""

    seconds: float = Field(default=3600.0, gt=0)
    """Wall clock from the first action to the end."""
    steps: int = Field(default=4000, ge=1)
    """Actions; the last of them ends the episode."""
    submissions: int = Field(default=3, ge=0)
    """Submissions that are evaluated; one more ends the episode."""
    cpu_seconds: float = Field(default=7200.0, gt=0)
    """CPU time of all processes in all sessions."""
    evaluation_seconds: float = Field(default=3600.0, gt=0)
    """Time of all evaluations together."""


class GymBudget:
    """Counts of an episode that stand still while nobody acts, and end it wherever they are looked at.

    Args:
        clock: seconds that never go back.
        used: a `state()` of before; the clock goes on from there.
    """

    def __init__(
        self,
        limits: BudgetLimits,
        clock: Callable[[], float] = time.monotonic,
        used: dict[str, Any] | None = None,
    ):
        self.limits, self._clock = limits, clock
        used = used or {}
        self.steps = int(used.get("steps", 0))
        self.submissions = int(used.get("submissions", 0))
        self.evaluation_seconds = float(used.get("evaluation_seconds", 0.0))
        self._cpu_before = float(used.get("cpu_seconds", 0.0))
        self._cpu: dict[str, float] = {}
        self._seconds_before = float(used.get("seconds", 0.0))
        self._began: float | None = None

    def begin(self) -> None:
        """Start the clock, or let it go on."""
        if self._began is None:
            self._began = self._clock()

    def pause(self) -> None:
        """Stop the clock."""
        self._seconds_before, self._began = self.seconds, None

    @property
    def seconds(self) -> float:
        return self._seconds_before + (0.0 if self._began is None else self._clock() - self._began)

    @property
    def cpu_seconds(self) -> float:
        return self._cpu_before + sum(list(self._cpu.values()))

    def use_cpu(self, who: str, seconds: float) -> None:
        """All that a session has used so far."""
        self._cpu[who] = max(seconds, self._cpu.get(who, 0.0))

    def left(self) -> float:
        """Seconds of wall clock."""
        return max(0.0, self.limits.seconds - self.seconds)

    def evaluation_left(self) -> float:
        """Seconds for evaluations."""
        return max(0.0, self.limits.evaluation_seconds - self.evaluation_seconds)

    def over(self) -> str | None:
        """Why the episode is over; None while it is not."""
        limits = self.limits
        if self.seconds >= limits.seconds:
            return f"the time of {limits.seconds:g} seconds is used up"
        if self.steps >= limits.steps:
            return f"all {limits.steps} steps are used up"
        if self.cpu_seconds >= limits.cpu_seconds:
            return f"the {limits.cpu_seconds:g} CPU seconds are used up"
        if self.submissions > limits.submissions:
            return f"all {limits.submissions} submissions are used up"
        return None

    def state(self) -> dict[str, Any]:
        """What has been used, as JSON."""
        return {
            "seconds": self.seconds,
            "steps": self.steps,
            "submissions": self.submissions,
            "cpu_seconds": self.cpu_seconds,
            "evaluation_seconds": self.evaluation_seconds,
        }
