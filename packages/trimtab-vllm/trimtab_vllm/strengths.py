"""The strength of a request at each token of its answer, and the answer that it may be told to follow. Knows nothing
of vLLM.

    {"strength": 0.5}              the whole answer
    {"strength": [1.0, 0.5, 0]}    n parts of max_tokens: token i is in part floor(i n / max_tokens)
    {"follow": [17, 4, 203]}       the answer is these tokens, whatever the model says
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimtab_vllm.dial_folder import DialFolder
from trimtab_vllm.xargs import check_spelling, is_number, shown
from trimtab_vllm.xargs import ids as read_ids

STRENGTH, FOLLOW = "strength", "follow"


@dataclass(frozen=True)
class Schedule:
    """Strengths of equal parts of an answer of at most `length` tokens."""

    parts: tuple[float, ...]
    length: int

    def at(self, token: int) -> float:
        """The strength of new token number `token`, from 0."""
        return self.parts[min(token * len(self.parts) // self.length, len(self.parts) - 1)]


def schedule(args: Mapping[str, Any] | None, max_tokens: int | None, default: float = 1.0) -> Schedule:
    """What a request asks for; nothing is the default.

    Args:
        max_tokens: of the answer; None where vLLM has yet to fill in what the context leaves.

    Raises:
        ValueError: for anything but a finite number, or a list of such with at most one for each token.
    """
    value = (args or {}).get(STRENGTH, default)
    parts = list(value) if isinstance(value, list | tuple) else [value]
    if not parts or not all(map(is_number, parts)):
        raise ValueError(f"strength must be a number, or a list of numbers, got {shown(value)}")
    if max_tokens is not None and len(parts) > max_tokens:
        raise ValueError(f"strength has {len(parts)} parts, and the answer at most {max_tokens} tokens (max_tokens)")
    return Schedule(tuple(map(float, parts)), max_tokens or len(parts))


def followed(args: Mapping[str, Any] | None) -> tuple[int, ...]:
    """The tokens that the answer is to have; () where it is free."""
    return read_ids(args or {}, FOLLOW)


def check(args: Mapping[str, Any] | None, max_tokens: int | None, folder: DialFolder, vocab: int) -> list[str]:
    """Refuse what cannot be served.

    Returns:
        Warnings: a strength outside of the range that the folder recommends.

    Raises:
        ValueError: in one line, for the answer to the request.
    """
    args = args or {}
    check_spelling(args, (STRENGTH, FOLLOW))
    asked = schedule(args, max_tokens, folder.default)
    low, high = folder.limits
    for strength in asked.parts:
        if not low <= strength <= high:
            raise ValueError(f"strength must be between {low:g} and {high:g} for this model, got {strength:g}")
    if FOLLOW in args:
        _check_followed(followed(args), max_tokens, vocab)
    if folder.recommended is None:
        return []
    low, high = folder.recommended
    beyond = sorted({strength for strength in asked.parts if not low <= strength <= high})
    return [
        f"strength {one:g} is outside of the range that this model recommends, {low:g} to {high:g}" for one in beyond
    ]


def _check_followed(tokens: tuple[int, ...], max_tokens: int | None, vocab: int) -> None:
    if not tokens:
        raise ValueError("follow has no tokens; leave it out for a free answer")
    if max_tokens != len(tokens):
        raise ValueError(f"follow has {len(tokens)} tokens, and max_tokens must be as many, got {max_tokens}")
    if max(tokens) >= vocab:
        raise ValueError(f"follow has token {max(tokens)}, and the model's vocabulary ends at {vocab - 1}")
