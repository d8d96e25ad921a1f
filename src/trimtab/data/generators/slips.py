"""Kinds of errors that a step of a solution can hold."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from random import Random
from typing import NamedTuple

from trimtab.data.generators.problems import Template, WorkedStep
from trimtab.data.generators.solving import FACTORS, Line, Slot, Value, total_of

Change = Callable[[Random, Template, Line, Sequence[Value]], tuple[Line, tuple[Slot, ...]] | None]


class Variant(NamedTuple):
    """A kind of error, or one way to make it."""

    strikes: Callable[[Template, WorkedStep], bool]
    change: Change
    """of the right line, with all values before it: another line and what is wrong in it; None if it did not work"""


@cache
def open_to(variant: Variant, templates: tuple[Template, ...]) -> tuple[Template, ...]:
    return tuple(template for template in templates if places_of(variant, template))


@cache
def places_of(variant: Variant, template: Template) -> tuple[int, ...]:
    return tuple(index for index, step in enumerate(template.steps) if variant.strikes(template, step))


def _misprint(drawn: Random, number: Value) -> Value:
    """A number with one digit replaced or two neighbours exchanged; a fraction one unit further."""
    if isinstance(number, Fraction):
        return number + drawn.choice((-1, 1))
    digits = list(str(number))
    place = drawn.randrange(len(digits))
    if place and drawn.random() < 0.3:
        digits[place - 1], digits[place] = digits[place], digits[place - 1]
    else:
        digits[place] = drawn.choice("0123456789")
    return number if digits[0] == "0" else int("".join(digits))


def _slip(drawn: Random, template: Template, line: Line, values: Sequence[Value]):
    result = _misprint(drawn, line.result)
    return None if abs(result - line.result) == 10 else (line._replace(result=result), (Slot("result"),))


def _carry(drawn: Random, template: Template, line: Line, values: Sequence[Value]):
    return line._replace(result=line.result + drawn.choice((-10, 10))), (Slot("result"),)


def _exchange(old: str, new: str, *, algebra: bool) -> Variant:
    """Another operator in the place of one; operators of a line stay of one rank."""

    def strikes(template: Template, step: WorkedStep) -> bool:
        return template.algebra == algebra and old in step.operators and (len(step.operators) == 1 or new in "+-")

    def change(drawn: Random, template: Template, line: Line, values: Sequence[Value]):
        place = drawn.choice([i for i, operator in enumerate(line.operators) if operator == old])
        operators = (*line.operators[:place], new, *line.operators[place + 1 :])
        changed = line._replace(operators=operators, result=total_of(line.numbers, operators))
        return changed, (Slot("operator", place),)

    return Variant(strikes, change)


def _is_given(template: Template, place: int) -> bool:
    return place < template.num_given


def _is_factor(template: Template, place: int) -> bool:
    return template.num_given <= place < template.first_result


def _is_result(template: Template, place: int) -> bool:
    return place >= template.first_result


def _replace(origin: Callable[[Template, int], bool]) -> Variant:
    """Another number in the place of one from this origin: a misprint, or another number from there."""

    def strikes(template: Template, step: WorkedStep) -> bool:
        return any(origin(template, place) for place in step.operands)

    def change(drawn: Random, template: Template, line: Line, values: Sequence[Value]):
        index = drawn.choice([i for i, place in enumerate(line.operands) if origin(template, place)])
        number = line.numbers[index]
        others = [value for place, value in enumerate(values) if origin(template, place)]
        if origin is _is_factor:
            new = drawn.choice(FACTORS[int(number)])
        else:
            new = drawn.choice(others) if drawn.random() < 0.3 else _misprint(drawn, number)
        if new < 2:
            return None
        numbers = (*line.numbers[:index], new, *line.numbers[index + 1 :])
        return line._replace(numbers=numbers, result=total_of(numbers, line.operators)), (Slot("number", index),)

    return Variant(strikes, change)


def _drop(drawn: Random, template: Template, line: Line, values: Sequence[Value]):
    left_out = drawn.randrange(line.operators[0] == "-", len(line.operands))
    operands = line.operands[:left_out] + line.operands[left_out + 1 :]
    numbers = line.numbers[:left_out] + line.numbers[left_out + 1 :]
    operators = line.operators[1:]  # they are all the same
    return Line(operands, numbers, operators, total_of(numbers, operators)), (Slot("result"),)


def _repeat(drawn: Random, template: Template, line: Line, values: Sequence[Value]):
    (operator,) = line.operators
    twice = drawn.randrange(2)
    operands, numbers = (*line.operands, line.operands[twice]), (*line.numbers, line.numbers[twice])
    operators = (operator, operator)
    return Line(operands, numbers, operators, total_of(numbers, operators)), (Slot("operator", 1), Slot("number", 2))


def _computes(template: Template, step: WorkedStep) -> bool:
    return bool(step.operators)


def _is_sum(*operators: str) -> Callable[[Template, WorkedStep], bool]:
    return lambda _, step: step.operators == operators


KINDS: dict[str, tuple[Variant, ...]] = {
    "slip": (Variant(_computes, _slip),),
    "carry": (Variant(_computes, _carry),),
    "operation": tuple(_exchange(old, new, algebra=False) for old, new in ("+-", "-+", "+-", "-+", "*+", "+*")),
    "inverse": tuple(_exchange(old, new, algebra=True) for old, new in ("+-", "-+", "+-", "-+", "*+", "/-")),
    "misread": (_replace(_is_given),),
    "copy": (_replace(_is_result),),
    "conversion": (_replace(_is_factor),),
    "dropped": (Variant(_is_sum("+", "+"), _drop), Variant(_is_sum("-", "-"), _drop)),
    "repeated": (Variant(_is_sum("+"), _repeat), Variant(_is_sum("-"), _repeat)),
}
"""wrong result of an operation; a result off by ten; another operation; in an equation, the operation in place of its
inverse; a number of the task misread; an earlier result copied wrongly; a wrong known factor; a term left out; a
term counted twice"""
