"""A reward for the puzzles, with the signature of `trimtab train` and of TRL."""

import re
from collections.abc import Sequence
from typing import Any


def reward(
    prompts: Sequence[str],
    completions: Sequence[str],
    numbers: Sequence[Sequence[int]],
    target: Sequence[int],
    **_: Any,
) -> list[float]:
    """1 for a correct answer, 0 for any other."""
    return [one(completion, wanted) for completion, wanted in zip(completions, target)]


def one(completion: str, target: int) -> float:
    found = re.search(r"<answer>(.*?)</answer>", completion, re.DOTALL)
    if found is None:
        return 0.0
    try:
        return float(abs(eval(found[1]) - target) < 1e-6)
    except Exception:
        return 0.0
