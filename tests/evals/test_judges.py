"""Judges of answers: by rule, and a model that is asked once and never on behalf of a failed request."""

import pytest

from trimtab.common.errors import Unanswered
from trimtab.common.files import JsonLines
from trimtab.evals.judges import (
    ToJudge,
    conclusion,
    contains,
    is_yes_or_no,
    judge_prompt,
    judged,
    matches,
    normalised,
    yes_or_no,
)
from trimtab.evals.openai_model import OpenAIModel


def test_case_punctuation_articles_and_space_do_not_count():
    assert normalised("  The  St. Louis  Blues! ") == "st louis blues"
    assert normalised("N'Djamena") == normalised("N’Djamena") == "ndjamena"
    assert normalised("1,000 (a year)") == "1000 year"
    assert normalised("The") == "the"
    assert normalised("?") == "?"


def test_a_match_is_the_answer_and_nothing_else():
    assert matches("The Norway.", ["Norway"])
    assert matches("Kingdom of Norway", ["Norway", "kingdom of norway"])
    assert not matches("It is Norway.", ["Norway"])


def test_an_answer_is_contained_as_words_and_not_as_letters():
    assert contains("He was born in St. Louis.", ["St. Louis"])
    assert contains("I do not know.\n\nAh, it is Oslo", ["Oslo"])
    assert not contains("Slow boats", ["low"])
    assert not contains("Louis went to the St", ["St. Louis"])
    assert contains("他是挪威人。", ["挪威"])
    assert contains("C", ["C", "D"])


def test_yes_and_no_are_the_word_that_comes_first():
    assert yes_or_no("No, but yes in a way") == "no"
    assert yes_or_no("I know nothing of it") is None
    assert is_yes_or_no(["Yes"])
    assert not is_yes_or_no(["Yes", "Norway"])
    assert not is_yes_or_no([])


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("Canada at first. <answer> \\boxed{St. Louis} </answer>", "St. Louis"),
        ("\\boxed{Canada} no: \\boxed{\\text{Nor}way}.", "\\text{Nor}way"),
        ("<think>Canada</think>Norway.\nNothing more.", "Norway.\nNothing more."),
        ("It was Canada.\nFinal answer: Norway. Really.", "Norway. Really."),
        ("Norway. Oslo", "Norway. Oslo"),
        ("<answer>Norway", "Norway"),
        ("\\boxed{Norway", "Norway"),
        ("<think>never ends", ""),
    ],
)
def test_a_conclusion_is_what_is_marked_as_one_else_the_whole_text(reply, found):
    assert conclusion(reply) == found


# ---------------------------------------------------------------- a model

QUESTIONS = [ToJudge(f"What is {n}?", (f"{n}",), reply) for n, reply in enumerate(("0", "2", "maybe", "3"))]


def says(asked) -> str:
    """A if the expected answer is the answer, and no letter where it is unsure."""
    lines = dict(line.split(": ", 1) for line in asked["messages"][0]["content"].splitlines() if ": " in line)
    if lines["Answer to check"] == "maybe":
        return "Hard to say"
    return "A" if lines["Answer to check"] == lines["Expected answer"] else "B."


def judge_at(server, **how) -> OpenAIModel:
    return OpenAIModel(server.url, "m", batch=2, pause=0.0, **how)


def test_a_judgement_is_asked_for_once_and_an_unreadable_one_is_none(server, tmp_path):
    server.reply = says
    kept = JsonLines(tmp_path / "judgements.jsonl", "key", "correct")
    assert judged(QUESTIONS, judge_at(server), kept) == [True, False, None, True]
    assert len(server.seen) == 4
    again = JsonLines(tmp_path / "judgements.jsonl", "key", "correct")
    assert judged([*QUESTIONS, QUESTIONS[0]], judge_at(server), again) == [True, False, None, True, True]
    assert len(server.seen) == 4


def test_a_request_that_fails_is_no_judgement_and_is_asked_again(server, tmp_path):
    server.reply = says
    server.script = [(500, "down")] * 4  # both tries of the two longest
    kept = JsonLines(tmp_path / "judgements.jsonl", "key", "correct")
    one = OpenAIModel(server.url, "m", batch=1, pause=0.0, tries=2)
    assert judged(QUESTIONS, one, kept) == [None, False, None, True]
    assert len(kept) == 2
    assert judged(QUESTIONS, judge_at(server), kept) == [True, False, None, True]
    assert len(server.seen) == 4 + 2 + 2


def test_a_judge_that_is_down_judges_nothing(server, tmp_path):
    server.script = [(500, "down")] * 20
    kept = JsonLines(tmp_path / "judgements.jsonl", "key", "correct")
    with pytest.raises(Unanswered, match="the judge m: all 4 requests failed"):
        judged(QUESTIONS, judge_at(server, tries=2), kept)
    assert len(kept) == 0


def test_another_judge_is_asked_anew(server, tmp_path):
    server.reply = says
    kept = JsonLines(tmp_path / "judgements.jsonl", "key", "correct")
    judged(QUESTIONS[:1], judge_at(server), kept)
    server.name = "n"
    judged(QUESTIONS[:1], OpenAIModel(server.url, "n", pause=0.0), kept)
    assert len(server.seen) == 2


def test_the_judge_sees_question_answer_and_reply():
    (message,) = judge_prompt(ToJudge("Who?", ("Ada", "A. Brook"), " It is Ada. \n"))
    assert "Question: Who?\nExpected answer: Ada or A. Brook\nAnswer to check: It is Ada.\n" in message["content"]
