"""A task solved step by step, as lines."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

from trimtab.data.generators.problems import Template, WorkedStep

LARGEST, LARGEST_SMALL = 999, 99
"""of all values, at each level"""

Value = int | Fraction
FACTORS = {7: (5, 6, 10, 12), 12: (6, 10, 20, 24), 24: (12, 20, 30, 60), 60: (30, 50, 100), 2: (3, 4)}
"""known factors, and what is taken for them"""


class Line(NamedTuple):
    operands: tuple[int, ...]
    """places in the list of all values"""
    numbers: tuple[Value, ...]
    """what is written for them"""
    operators: tuple[str, ...]
    result: Value


class Slot(NamedTuple):
    """A token group of a line: "number" and "operator" count from 0, "result" has 0."""

    part: Literal["number", "operator", "result"]
    place: int = 0


def solve(template: Template, numbers: Sequence[int], begun: Sequence[Line] = ()) -> list[Line] | None:
    """The lines of a solution, the last of which gives the answer; None if the task or what is begun is not good.

    Good are numbers of 2 or more and whole results from 1 to the largest; the root of an equation may be a fraction. In
    a task no number comes twice, so each has one origin.
    """
    values = values_of(template, numbers, ())
    if min(numbers) < 2:
        return None
    lines, largest = list(begun), LARGEST_SMALL if template.small else LARGEST
    for index, step in enumerate(template.steps):
        if index == len(lines):
            lines.append(_line(step, values))
        result = lines[index].result
        is_root = template.algebra and index >= len(template.steps) - 2
        if not 1 <= result <= largest or (result.denominator > 1 and not is_root):
            return None
        values.append(result)
    if not begun and len(set(values)) < len(values) - 1:  # the last line repeats the last result
        return None
    return lines


def _line(step: WorkedStep, values: Sequence[Value]) -> Line:
    numbers = tuple(values[place] for place in step.operands)
    return Line(step.operands, numbers, step.operators, total_of(numbers, step.operators))


def total_of(numbers: Sequence[Value], operators: Sequence[str]) -> Value:
    total = numbers[0]
    for operator, number in zip(operators, numbers[1:]):
        if operator == "+":
            total += number
        elif operator == "-":
            total -= number
        elif operator == "*":
            total *= number
        else:
            total = total // number if total % number == 0 else Fraction(total) / number
    return total


def values_of(template: Template, numbers: Sequence[int], lines: Sequence[Line]) -> list[Value]:
    return [*numbers, *template.factors, *(line.result for line in lines)]
