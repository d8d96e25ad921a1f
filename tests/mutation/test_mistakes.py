"""The planted mistakes are still to be found in the source; `make mutation` plants them."""

from pathlib import Path

import mutate
import pytest
from mistakes import MISTAKES, Mistake

import trimtab

SOURCE = Path(trimtab.__file__).parents[1]


def test_the_function_and_the_expression_of_every_mistake_are_found_once():
    mutate.check(MISTAKES, SOURCE)


def test_the_tests_of_every_mistake_are_found():
    assert all(mutate.functions(mistake.tests) for mistake in MISTAKES)


TEXT = """
def one(a, b):
    return (
        a + b  # however it is laid out
    )

class Other:
    def one(self, a, b):
        return a + b, a + b
"""


def test_an_expression_is_found_by_its_syntax():
    made = mutate.planted(
        TEXT.replace("Other", "Third").replace("one(self", "two(self"), Mistake("", "m:one", "a+b", "a-b", ())
    )
    assert "(a-b)  # however" in made
    assert made.count("a + b") == 2


@pytest.mark.parametrize(
    "where, old", [("m:none", "a + b"), ("m:one", "a + b"), ("m:Other.one", "a + b"), ("m:Other.one", "a - b")]
)
def test_what_is_not_found_once_is_told(where, old):
    with pytest.raises(LookupError):
        mutate.planted(TEXT, Mistake("", where, old, "a", ()))
