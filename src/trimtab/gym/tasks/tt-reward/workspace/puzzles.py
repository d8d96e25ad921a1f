"""Puzzles with a correct answer each: `python3 puzzles.py 5` prints some."""

import json
import sys
from fractions import Fraction
from random import Random
from typing import Any

OPERATORS = "+-*/"
PROMPT = (
    "Use each of the numbers {numbers} exactly once, with + - * / and parentheses, so that the result is {target}. "
    "Put the expression between <answer> and </answer>."
)


def puzzle(draw: Random) -> dict[str, Any]:
    """Numbers, a target, and an expression that reaches it."""
    while True:
        numbers = [draw.randint(1, 25) for _ in range(draw.choice((3, 4)))]
        parts = [(str(one), Fraction(one)) for one in numbers]
        while len(parts) > 1:
            (left, a), (right, b) = (parts.pop(draw.randrange(len(parts))) for _ in range(2))
            operator = draw.choice(OPERATORS)
            operator = "+" if operator == "/" and b == 0 else operator
            value = a / b if operator == "/" else {"+": a + b, "-": a - b, "*": a * b}[operator]
            parts.append((f"({left} {operator} {right})", value))
        text, value = parts[0]
        if value.denominator == 1 and 26 <= value <= 300:
            target = int(value)
            prompt = PROMPT.format(numbers=", ".join(map(str, numbers)), target=target)
            return {"prompt": prompt, "numbers": numbers, "target": target, "answer": text[1:-1]}


if __name__ == "__main__":
    drawn = Random(int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 5):
        print(json.dumps(puzzle(drawn)))
