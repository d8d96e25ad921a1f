"""Reads what a request asks for in `vllm_xargs` (`SamplingParams.extra_args`). Knows nothing of vLLM.

Every error is one line that names the key, what was found, and what it takes; vLLM answers it with HTTP 400.
"""

import math
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any

SHOWN = 60
"""characters of a wrong value in a message"""


def shown(value: Any) -> str:
    """A value as in Python, cut short."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def is_number(value: Any) -> bool:
    """Whether it is a finite number that a float holds; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def number(args: Mapping[str, Any], key: str, default: float, *, above: float = -math.inf) -> float:
    """Raise a ValueError unless it is a finite number greater than `above`."""
    value = args.get(key, default)
    if not is_number(value) or value <= above:
        limit = f" above {above:g}" if above > -math.inf else ""
        raise ValueError(f"{key} must be a number{limit}, got {shown(value)}")
    return float(value)


def whole(args: Mapping[str, Any], key: str, default: int) -> int:
    """Raise a ValueError unless it is a whole number of at least 0."""
    value = args.get(key, default)
    if not is_id(value):
        raise ValueError(f"{key} must be a whole number of at least 0, got {shown(value)}")
    return value


def choice(args: Mapping[str, Any], key: str, names: Collection[str]) -> str:
    """Raise a ValueError unless it is one of the names; the first is the default."""
    value = args.get(key, next(iter(names)))
    if value not in names:
        raise ValueError(f"{key} must be one of {', '.join(names)}, got {shown(value)}")
    return value


def switch(args: Mapping[str, Any], key: str, default: bool) -> bool:
    """Raise a ValueError unless it is true or false, or 1 or 0, which JSON's true becomes on its way."""
    value = args.get(key, default)
    if value not in (0, 1) or isinstance(value, float):
        raise ValueError(f"{key} must be true or false, got {shown(value)}")
    return bool(value)


def ids(args: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """Raise a ValueError unless it is a list of token ids, or one."""
    value = args.get(key, [])
    value = [value] if is_id(value) else value
    if not isinstance(value, list | tuple) or not all(map(is_id, value)):
        raise ValueError(f"{key} must be a list of token ids, got {shown(value)}")
    return tuple(value)


def check_names(args: Mapping[str, Any], prefix: str, names: Collection[str]) -> None:
    """Raise a ValueError for a key that begins with the prefix and is none of the names."""
    for key in args:
        if key.startswith(prefix) and key not in names:
            raise ValueError(f"{key} is not a setting; known: {', '.join(names)}")


def check_spelling(args: Mapping[str, Any], names: Collection[str]) -> None:
    """Raise a ValueError for a key that is nearly one of the names: it would be ignored without a word."""
    for key in args:
        close = get_close_matches(key.lower(), names, n=1, cutoff=0.8)
        if key not in names and close:
            raise ValueError(f"{key} is not a setting; did you mean {close[0]!r}?")
