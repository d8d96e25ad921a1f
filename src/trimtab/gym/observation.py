"""What an agent is told after an action."""

import time
from dataclasses import dataclass, field
from typing import Any

from trimtab.common.errors import UserError
from trimtab.common.files import dumps

LONGEST = 30_000
"""characters of a text"""
HEAD = 0.2
"""the part of a text that is too long of which the beginning is kept; the rest is its end"""


class ActionFailed(UserError):
    """An action that failed, with the fields of its observation."""

    def __init__(self, text: str, fields: dict[str, Any]):
        super().__init__(text)
        self.fields = fields


@dataclass(frozen=True)
class GymObservation:
    """What came of an action.

    Args:
        kind: "run", "session", "file", "document", "eval", "think", "sleep", "hint", "finish" or "null".
        source: name of the action.
        message: what was done, or what went wrong.
        fields: values that an action of this kind has besides.
    """

    kind: str
    source: str
    success: bool
    message: str
    fields: dict[str, Any] = field(default_factory=dict)
    timestamp: float = field(default_factory=time.time)
    """seconds since 1970"""

    def to_dict(self) -> dict[str, Any]:
        """As JSON: `message`, or `error_message` where it failed. Long texts are truncated."""
        return {
            "success": self.success,
            "message" if self.success else "error_message": truncated(self.message),
            "observation_type": self.kind,
            "timestamp": round(self.timestamp, 3),
            "source": self.source,
            **{key: truncated(value) if isinstance(value, str) else value for key, value in self.fields.items()},
        }

    def __str__(self) -> str:
        return dumps(self.to_dict())


def truncated(text: str, longest: int = LONGEST) -> str:
    """A text of at most so many characters, a note not counted: its first fifth, and its end."""
    if len(text) <= longest:
        return text
    head = int(longest * HEAD)
    left_out = text[head : len(text) - (longest - head)]
    note = f"\n[... {len(left_out):,} characters, {left_out.count(chr(10)):,} lines omitted ...]\n"
    return text[:head] + note + text[len(text) - (longest - head) :]
