"""The field `strength` of a request: what it may be, and what is warned about."""

from dataclasses import dataclass
from typing import Any

from trimtab.models.dial import DialConfig, is_number
from trimtab.serving.refusals import RequestRefused, shown

FIELD = "strength"
MOST_PARTS = 65_536


@dataclass(frozen=True)
class Schedule:
    """What a request asks for."""

    strength: float | list[float]
    most: int
    """tokens that the answer could have, of which each part of a list has its share"""

    def tokens(self, number: int) -> list[float]:
        """The strength of each of the first tokens."""
        parts = self.strength if isinstance(self.strength, list) else [self.strength]
        return [parts[min(token * len(parts) // self.most, len(parts) - 1)] for token in range(number)]


def read_strength(value: Any, dial: DialConfig, most_tokens: int | None = None) -> tuple[float | list[float], str]:
    """The strength that a request asks for.

    Args:
        value: of the field; None for the dial's default.
        most_tokens: of the answer, if the request says so.

    Returns:
        A number, or a list of numbers, each for an equal part of the answer; and a warning, or nothing.

    Raises:
        RequestRefused: for anything else, and for what lies beyond the dial's limits.
    """
    if value is None:
        return dial.default, ""
    parts = value if isinstance(value, list) else [value]
    for one in parts:
        if isinstance(one, bool) or not isinstance(one, int | float):
            raise RequestRefused(f"strength must be a number, or a list of numbers, got {shown(value)}", param=FIELD)
        if not is_number(one):
            raise RequestRefused(f"strength must be finite, got {shown(value)}", param=FIELD)
    if not parts:
        raise RequestRefused("strength is an empty list; give a number, or a list of numbers", param=FIELD)
    if len(parts) > (most_tokens or MOST_PARTS):
        raise RequestRefused(
            f"strength has {len(parts)} parts, and the answer at most {most_tokens or MOST_PARTS} tokens", param=FIELD
        )
    low, high = dial.limits
    if beyond := [one for one in parts if not low <= one <= high]:
        raise RequestRefused(f"strength must lie between {low:g} and {high:g}, got {beyond[0]:g}", param=FIELD)
    numbers = [float(one) for one in parts]
    return (numbers if isinstance(value, list) else numbers[0]), _warning(numbers, dial)


def _warning(numbers: list[float], dial: DialConfig) -> str:
    low, high = dial.recommended
    outside = sorted({one for one in numbers if not low <= one <= high})
    if not outside:
        return ""
    listed = ", ".join(f"{one:g}" for one in outside[:3])
    return f"strength {listed} is outside of the recommended range, {low:g} to {high:g}"
