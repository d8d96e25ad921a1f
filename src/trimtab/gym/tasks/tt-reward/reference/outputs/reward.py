"""A reward for the puzzles that looks at the last answer, at its characters and at the numbers in it."""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any


def reward(
    prompts: Sequence[str],
    completions: Sequence[str],
    numbers: Sequence[Sequence[int]],
    target: Sequence[int],
    **_: Any,
) -> list[float]:
    """1 for a correct answer, 0 for any other."""
    return [one(*each) for each in zip(completions, numbers, target)]


def one(completion: str, numbers: Sequence[int], target: int) -> float:
    found = re.findall(r"<answer>(.*?)</answer>", completion, re.DOTALL)
    if not found:
        return 0.0
    expression, equals, claimed = found[-1].replace("×", "*").replace("÷", "/").replace("−", "-").partition("=")
    if equals and claimed.strip() != str(target):
        return 0.0
    if not re.fullmatch(r"[\d+\-*/() ]+", expression.strip()):
        return 0.0
    if sorted(map(int, re.findall(r"\d+", expression))) != sorted(numbers):
        return 0.0
    exact = re.sub(r"\d+", r"Fraction(\g<0>)", expression.strip())
    try:
        return float(eval(exact, {"Fraction": Fraction}) == target)
    except (ArithmeticError, SyntaxError, TypeError):
        return 0.0
