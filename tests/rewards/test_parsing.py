"""Letters of free texts."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_table import table
from trimtab.common import files
from trimtab.rewards._marks import without_reasoning
from trimtab.rewards.parsing import letters

ONE = {
    "": "",
    "B": "B",
    "b": "B",
    "b.": "B",
    "(c)": "C",
    "**C**": "C",
    "Ｂ": "B",
    "ｂ）": "B",
    "E": "",
    "I cannot say.": "",
    "A baker would pick B": "B",
    "A good choice is C": "C",
    "A man walks by": "",
    "I think a baker": "",
    "The answer is a baker": "",
    "The answer is a.": "A",
    "A is right": "A",
    "an A-level student": "",
    "A": "A",
    "A. Yes": "A",
    "A: The oven": "A",
    "A\n\nBecause he is a fool.": "A",
    "Option c fits best": "C",
    "I would say (d) here": "D",
    "Answer: D": "D",
    "ANSWER IS C": "C",
    "answer B": "B",
    "Choose C": "C",
    "My answer:\nC": "C",
    "Answer: **(B)** The oven": "B",
    "The best answer would be B": "B",
    "The final answer is option (D).": "D",
    "The correct option is: C": "C",
    "I would choose option b": "B",
    "I'd go with D.": "D",
    "\\boxed{B}": "B",
    "$\\boxed{\\text{B}}$": "B",
    "The answer is C because option A is silly.": "C",
    "First I thought the answer is A, but the answer is D": "D",
    "B. The oven. Options A and C do not fit.": "B",
    "A. wrong\nB. also wrong\nC. this fits": "C",
    "A comes close, B too, but C": "C",
    "It is C, not A.": "C",
    "It is not A but C": "C",
    "I'd rather not choose A; B fits": "B",
    "Not A.": "",
    "The answer is A or C": "",
    "AC": "",
    "A, C": "",
    "答案是C": "C",
    "答案：Ｃ": "C",
    "正确选项是C。": "C",
    "我选B，因为A不对": "B",
    "不选A，选D": "D",
    "不选择A": "",
    "不应该选A": "",
    "选项A不对，应选D": "D",
    "C吧": "C",
    "没有答案": "",
    "<think>A or B? A.</think>C": "C",
    "<think>The answer is A": "",
    "thinking of B</think> D": "D",
}
SEVERAL = {
    "": "",
    "A, C": "AC",
    "AC": "AC",
    "C, A": "CA",
    "A and C are right": "AC",
    "Both A and D": "AD",
    "(a), (c)": "AC",
    "The answers are A, B and D.": "ABD",
    "A. one\nC. two": "AC",
    "A, A and A": "A",
    "A, E": "A",
    "BAD": "",
    "答案：A、C": "AC",
    "A和C": "AC",
    "选AD": "AD",
}


@table("text, expected", ONE.items())
def test_the_one_letter_of_a_text(text, expected):
    assert "".join(letters(text, "ABCD")) == expected


@table("text, expected", SEVERAL.items())
def test_the_letters_of_a_text_where_several_may_be_right(text, expected):
    assert "".join(letters(text, "ABCD", several=True)) == expected


def test_only_offered_letters_are_found_and_an_announced_one_that_is_not_offered_is_passed_over():
    assert letters("The answer is D. Or B", "ABC") == ("B",)
    assert letters("H", "ABCDEFGH") == ("H",)
    assert letters("A", "") == ()


def test_what_follows_the_reasoning_is_the_reply():
    assert without_reasoning("<think>a</think> b <THINKING>c</THINKING>d") == "b  d"
    assert without_reasoning("a</think>b") == "b"
    assert without_reasoning("a <think>b") == "a"
    assert without_reasoning("plain") == "plain"


PIECES = st.sampled_from(
    [
        *"ABCDEFGHabcdefghI .,()[]*\"'\n、和选不是",
        "answer ",
        " is ",
        " not ",
        "答案",
        "<think>",
        "</think>",
        "\\boxed{",
        "and ",
        "Ａ",
    ]
)
TEXTS = st.one_of(st.text(max_size=200), st.lists(PIECES, max_size=30).map("".join))


OFFERED = st.sampled_from(["", "A", "BD", "ABC", "ABCD", "ABCDE", "ABCDEFGH"])


def agrees(text, offered, several):
    found = letters(text, offered, several)
    assert set(found) <= set(offered)
    assert len(found) == len(set(found))
    assert several or len(found) <= 1


@settings(max_examples=500, deadline=None)
@given(TEXTS, OFFERED, st.booleans())
def test_any_text_gives_offered_letters_at_most_once_each(text, offered, several):
    agrees(text, offered, several)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None)
@given(TEXTS, OFFERED, st.booleans())
def test_ten_thousand_texts_give_offered_letters_at_most_once_each(text, offered, several):
    agrees(text, offered, several)


@table("unit", ["\n", "*", "(", "A", "A, ", "answer ", "answer (", "<think>", "A and ", "is ", "选", "a) \n"])
def test_degenerate_replies_take_no_time(unit):
    start = time.perf_counter()
    letters(unit * 3000, "ABCD", several=True)
    assert time.perf_counter() - start < 1


# ---------------------------------------------------------------- the corpus

OPTIONS = {
    "numbers": {"A": "one", "B": "two", "C": "three", "D": "four"},
    "relations": {
        "A": "Parallel", "B": "Perpendicular", "C": "Intersecting but not perpendicular", "D": "Cannot be inferred"
    },
    "capitals": {"A": "Paris", "B": "London", "C": "Berlin", "D": "Rome"},
    "replies": {
        "A": "I would rather sleep.", "B": "Bread first, talk later.", "C": "Leave my shop!", "D": "How kind of you."
    },
    "emotions": {"A": "高兴", "B": "悲伤", "C": "愤怒", "D": "惊讶"},
    "letters": dict.fromkeys("ABCDE", ""),
}  # fmt: skip
WRITTEN = list(files.records((Path(__file__).parent / "written_answers.jsonl").read_bytes(), "text", "want", "options"))


@table("row", WRITTEN, ids=lambda row: ascii(row["text"][-40:]))
def test_a_written_answer_is_read_as_its_reader_would(row):
    found = letters(row["text"], OPTIONS[row["options"]], several=row.get("several", False))
    assert "".join(found) == row["want"]


def test_the_corpus_is_large_and_holds_answers_that_choose_nothing():
    assert len(WRITTEN) >= 500
    assert sum(not row["want"] for row in WRITTEN) >= 120
    assert sum(not row["text"].isascii() and bool(re.search("[一-鿿]", row["text"])) for row in WRITTEN) >= 100


def test_options_need_not_be_called_by_letters():
    offered = {"1": "cold", "2": "hot", "3": "warm"}
    for text, want in (
        ("2", "2"), ("(3)", "3"), ("The answer is 2.", "2"), ("Option 3", "3"), ("hot", "2"), ("2 or 3", ""),
        ("The answer is 21.", ""), ("I have 2 apples", ""), ("1) cold", "1"), ("the answer is 2.5", ""),
    ):  # fmt: skip
        assert "".join(letters(text, offered)) == want, text
