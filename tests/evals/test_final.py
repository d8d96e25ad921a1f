"""Final answers, and whether two are the same."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.evals.final import final_answer, number, same


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (r"3*4=12, so \boxed{14}. The answer is 15", "14"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{3} and then \boxed{4}", "4"),
        ("Step 1: 2 + 2 = 4.\nThe answer is 4.", "4"),
        ("The answer is 3.\nNo: the answer is 5.", "5"),
        ("Answer: **17**", "17"),
        ("5 + 5 = 10", "10"),
        ("no idea", None),
        ("", None),
    ],
)
def test_a_text_settles_on_its_box_then_on_what_it_calls_the_answer_then_on_its_last_number(text, wanted):
    assert final_answer(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("1,200", 1200), ("-3.5", Fraction(-7, 2)), ("7/4", Fraction(7, 4)), ("−2", -2), ("x", None), ("1/0", None)],
)
def test_numbers_are_exact(text, wanted):
    assert number(text) == wanted


@pytest.mark.parametrize(
    ("answer", "truth", "wanted"),
    [
        ("540 litres", "540", True),
        ("540.0", "540", True),
        ("0.5", "1/2", True),
        ("541", "540", False),
        ("-540", "540", False),
        (None, "540", False),
        ("Paris.", " paris", True),
        ("in Paris", "Paris", False),
    ],
)
def test_answers_are_the_same_as_numbers_or_as_texts(answer, truth, wanted):
    assert same(answer, truth) is wanted


@given(st.text(max_size=60))
def test_any_text_is_read_without_an_error(text):
    found = final_answer(text)
    assert found is None or isinstance(same(found, "3"), bool)


@given(st.fractions())
def test_a_fraction_is_the_same_as_itself_and_not_as_the_next(value):
    assert same(f"The answer is {value}", str(value))
    assert not same(str(value), str(value + 1))
