"""Tasks of arithmetic and simple algebra: wordings, numbers and the steps that solve them; see `data/solutions.py`.

A step is a label and an operation, "Cost: A + B", or an equation that begins with what it is about,
"Constant: {a}x = c - b". Small letters are the numbers of the task, capitals the results of the first, second, ...
step, digits are known factors (7 days a week). Operations of a step are all of one rank, + and - or * and /, and are
done from left to right.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from random import Random
from string import ascii_lowercase, ascii_uppercase
from typing import NamedTuple

Draw = Callable[[Random], tuple[int, ...]]


class WorkedStep(NamedTuple):
    label: str
    lead: str
    """what stands before the operation, or before the number of the last line"""
    operands: tuple[int, ...]
    """places in the list of all values: numbers of the task, known factors, results of steps"""
    operators: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Template:
    name: str
    wordings: tuple[str, ...]
    written: tuple[str, ...]
    """the steps as they are written above"""
    draw: Draw
    """numbers for a task, which need not give a good one"""
    algebra: bool = False
    small: bool = False
    """its numbers are below 100 and its lines short"""

    @cached_property
    def num_given(self) -> int:
        return max(ascii_lowercase.index(name) for name in self._names if name.islower()) + 1

    @cached_property
    def factors(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(int(name) for name in self._names if name.isdigit()))

    @cached_property
    def first_result(self) -> int:
        """The place of the first step's result in the list of all values."""
        return self.num_given + len(self.factors)

    @cached_property
    def steps(self) -> tuple[WorkedStep, ...]:
        """The last one has no operation: it gives the answer."""
        steps = []
        for text in self.written:
            label, lead, (*terms,) = _parts(text)
            steps.append(WorkedStep(label, lead, tuple(map(self._place, terms[::2])), tuple(terms[1::2])))
        return (
            *steps,
            WorkedStep("", "" if self.small else "The answer is ", (self.first_result + len(steps) - 1,), ()),
        )

    @property
    def _names(self) -> list[str]:
        return [name for text in self.written for name in _parts(text)[2][::2]]

    def _place(self, name: str) -> int:
        if name.isdigit():
            return self.num_given + self.factors.index(int(name))
        if name.isupper():
            return self.first_result + ascii_uppercase.index(name)
        return ascii_lowercase.index(name)


def _parts(step: str) -> tuple[str, str, list[str]]:
    label, _, rest = step.partition(": ")
    lead, equals, operation = rest.rpartition(" = ")
    return label, lead + equals, operation.split()


def within(*ranges: tuple[int, int]) -> Draw:
    return lambda drawn: tuple(drawn.randint(low, high) for low, high in ranges)
