"""Answers that several rewards judge, each some of them."""

import math
from collections.abc import Sequence
from typing import Any

from trimtab.common.errors import UserError


class NotJudged(UserError):
    """An answer that no reward judges."""


def which_are_right(
    values: Sequence[Sequence[float | None]], least: Sequence[float], prompts: Sequence[Any]
) -> list[bool]:
    """Whether each answer is right by the first reward that judges it: its value is at least that reward's `right`.

    Args:
        values: of each reward, for each answer; None or NaN where it does not judge it.
        least: of each reward, its `right`.
        prompts: of the answers.

    Raises:
        NotJudged: for an answer that no reward judges.
    """
    found = []
    for prompt, own in zip(prompts, zip(*values, strict=True), strict=True):
        said = [value >= right for value, right in zip(own, least) if value is not None and not math.isnan(value)]
        if not said:
            raise NotJudged(
                f"no reward judges a completion to {beginning(prompt)}: every one returned None; take such rows "
                "out, or let one return a number"
            )
        found.append(said[0])
    return found


def beginning(prompt: Any) -> str:
    """Of a prompt, in one line and quotes; of a chat what its last message says."""
    text = prompt[-1].get("content") if isinstance(prompt, list) and prompt else prompt
    line = " ".join(str(text).split())
    return repr(line if len(line) <= 60 else f"{line[:57]}...")
