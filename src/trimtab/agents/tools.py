"""Tools that an agent can call, whoever runs them: calls are checked first, and what comes of them is a short text."""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from trimtab.common.errors import UserError
from trimtab.data.tool_arguments import CallFault, arguments_of

FAILED = "error: "
"""how an observation begins whose call failed"""


class ToolsError(UserError):
    """Tools that cannot be had as they were named."""


class ToolFailed(Exception):
    """What an agent is told instead of a result."""


class Observation(NamedTuple):
    """What came of a call."""

    text: str
    """begins with "error: " where the call failed"""
    error: bool
    seconds: float
    """from the call to its result"""


class Toolbox(ABC):
    """Some tools. Used in a `with` block, or ended by `close`.

    One whose calls can be undone has a `reset()`, after which the tools are as they were before the first call.
    """

    schemas: list[dict[str, Any]]
    """JSON schemas of the tools, as chat templates read them"""
    longest: int = 4000
    """characters of an observation; longer ones are cut, with a note"""

    def run(self, name: str, arguments: str | Mapping[str, Any]) -> Observation:
        """Call a tool.

        Args:
            arguments: their JSON, as a model wrote it, or a mapping.

        Returns:
            What the tool returned, or what was wrong: an unknown tool, arguments that are no JSON or that its schema
            refuses, a tool that failed. None of these is an exception.

        Raises:
            ToolsError: if the tools themselves are gone and do not come back.
        """
        began = time.monotonic()
        try:
            text, error = self.call(name, arguments_of(name, arguments, self.schemas)), False
        except (CallFault, ToolFailed) as failed:
            text, error = f"{FAILED}{' '.join(str(failed).split())}", True
        return Observation(shortened(text, self.longest), error, time.monotonic() - began)

    @abstractmethod
    def call(self, name: str, arguments: dict[str, Any]) -> str:
        """What a tool returns to arguments that fit its schema.

        Raises:
            ToolFailed: with what the agent is told.
        """

    def close(self) -> None:
        """End what runs for the tools."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def shortened(text: str, longest: int) -> str:
    """The beginning of a text that is too long, and how long it was."""
    if len(text) <= longest:
        return text
    note = f" [cut: {len(text):,} characters]"
    return text[: max(longest - len(note), 0)] + note


def check_limits(seconds: float, longest: int) -> None:
    """Refuse limits that no call keeps."""
    if seconds <= 0 or longest <= 0:
        raise ToolsError(f"a tool needs time, got {seconds:g} seconds and {longest} characters")
