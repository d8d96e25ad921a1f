"""Completions graded by several rewards, each of which may grade only some."""

import math
from collections.abc import Sequence
from typing import Any

from trimtab.common.errors import UserError


class NotGraded(UserError):
    """A completion that no reward grades."""


def which_are_correct(
    values: Sequence[Sequence[float | None]], least: Sequence[float], prompts: Sequence[Any]
) -> list[bool]:
    """Whether each completion is correct by the first reward that grades it: its value is at least that reward's
    `correct`.

    Args:
        values: of each reward, for each completion; None or NaN where it does not grade it.
        least: of each reward, its `correct`.
        prompts: of the completions.

    Raises:
        NotGraded: for a completion that no reward grades.
    """
    found = []
    for prompt, own in zip(prompts, zip(*values, strict=True), strict=True):
        grades = [value >= correct for value, correct in zip(own, least) if value is not None and not math.isnan(value)]
        if not grades:
            raise NotGraded(
                f"no reward grades a completion of {beginning(prompt)}: every one returned None; remove such "
                "rows, or make one return a number"
            )
        found.append(grades[0])
    return found


def beginning(prompt: Any) -> str:
    """The beginning of a prompt, in one line and quotes; of a chat, of its last message."""
    text = prompt[-1].get("content") if isinstance(prompt, list) and prompt else prompt
    line = " ".join(str(text).split())
    return repr(line if len(line) <= 60 else f"{line[:57]}...")
