"""Final answers, and whether two are the same."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_table import table
from trimtab.rewards.final import final_answer, is_correct, number, same


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


RIGHT = [
    ("Paris", "Paris"),
    ("yes", "Yes"),
    ("True.", "true"),
    ("x", "x"),
    ("10:30", "10:30"),
    ("[1, 2]", "[1, 2]"),
    ("**Paris**", "Paris"),
    ('"Paris"', "Paris"),
    ("The answer is Paris.", "Paris"),
    ("Answer: \\text{Paris}", "Paris"),
    ("The answer is Paris, since it is the capital.", "Paris"),
    ("The answer is Paris (the capital).", "Paris"),
    ("The answer is Paris. Rome is the capital of Italy.", "Paris"),
    ("\\boxed{\\text{Paris}}", "Paris"),
    ("The answer is Paris, France.", "Paris, France"),
    ("The answer is not Rome.\nThe answer is Paris.", "Paris"),
    ("The answer is 8. He bought them on day 3.", "8"),
    ("The answer is 8, since 5 + 3 = 8 and not 9.", "8"),
    ("The answer is 8 because 5 + 3 = 8", "8"),
    ("The final answer is 12 (12 = 3 * 4).", "12"),
    ("The answer is **42**. Let me know if you need 2 more.", "42"),
    ("#### 18 (2 left)", "18"),
    ("#### 1,200", "1200"),
    ("The answer is 7 cm^2.", "7"),
    ("The answer is $7\\text{ cm}^2$.", "7"),
    ("The answer is 540 litres", "540"),
    ("The answer is 5 + 3 = 8.", "8"),
    ("The answer is x = 5", "5"),
    ("Answer:\n\n42", "42"),
    ("The answer is: 3.50", "3.5"),
    ("The answer is 8 apples on day 3", "8"),
    ("The answer is about $1,200.50 per month", "1200.5"),
    ("2 + 2 = 4", "4"),
    ("The answer should be 7/4.", "7/4"),
    ("<answer> 9 </answer>", "9"),
    ("答案是12。因为3乘4等于12。", "12"),
    ("答案：8", "8"),
    ("The answer is -5 degrees.", "-5"),
    ("The answer is .5", "0.5"),
    ("The **answer** is 6", "6"),
    ("**Answer:** 6", "6"),
    ("The answer is 2 - that is the even prime.", "2"),
    ("\\boxed{\\frac{\\sqrt{3}}{2}}", "\\frac{\\sqrt{3}}{2}"),
]
WRONG = [
    ("The answer is 3 or 4", "4"),
    ("The answer is 3 or 4", "3"),
    ("The answer is between 3 and 4", "4"),
    ("#### 3, 4", "4"),
    ("The answer is 9, since 5 + 3 = 8.", "8"),
    ("The answer is 3. It is not 8", "8"),
    ("The answer is not 8", "8"),
    ("The answer is 2^3", "2"),
    ("The answer is 2^3", "3"),
    ("The answer is 10:30", "10"),
    ("The answer is 10:30", "30"),
    ("The answer is 3,5", "35"),
    ("I live in Paris", "Paris"),
    ("The answer is not Paris", "Paris"),
    ("", "Paris"),
    ("The answer is Paris or Rome", "Paris"),
    ("\\boxed{3} and then \\boxed{4}", "3"),
    ("Paris is not Rome", "Rome"),
]


@table(("text", "truth"), RIGHT)
def test_what_follows_a_stated_answer_does_not_change_it(text, truth):
    assert is_correct(text, truth)


@table(("text", "truth"), WRONG)
def test_another_answer_and_none_are_incorrect(text, truth):
    assert not is_correct(text, truth)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 6. No: the answer is 7.", "7"),
        ("Answer: the answer is 7", "7"),
        ("#### 12 #### 13", "13"),
        ("The answer is 6. The answer is not 5", "6"),
    ],
)
def test_the_last_of_several_statements_on_one_line_counts(text, answer):
    assert final_answer(text) == answer
