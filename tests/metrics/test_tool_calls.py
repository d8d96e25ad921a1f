"""Static metrics of tool agents, by hand: sections 3.6 and 8 of the specification of alpha-UMi (arXiv:2401.07324)."""

import json

import pytest

from trimtab.metrics.tool_calls import (
    Judged,
    Said,
    argument_score,
    judge,
    parsed,
    read,
    read_backbone,
    read_roles,
    rouge_of_the_paper,
)

NAMES = ["look", "send"]


def called(name="look", arguments="{}", thought="I look."):
    """What planner and caller write, joined."""
    return f"{thought}\n Next: caller.</s>caller: Action: {name}\nAction Input: {arguments}"


def judged(reference, prediction, names=NAMES):
    return judge(read(reference), read(prediction), names)


FINISHED = "Enough.\n Next: conclusion.</s>conclusion: It is 12 C. Take a coat."
GIVES_UP = "No tool helps.\n Next: give up."
OF_ONE = {
    "call": 'I look.\nAction: look\nAction Input: {"town": "Bern"}',
    "finish": "Enough.\nconclusion: It is 12 C.",
    "give up": "No.\nconclusion: give up.",
}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (called("look", '{"town": "Bern"}'), Said("call", "look", '{"town": "Bern"}', None)),
        (FINISHED, Said("finish", None, None, "It is 12 C. Take a coat.")),
        (GIVES_UP, Said("give up", None, None, None)),
        ("Next: conclusion. Next: caller. Next: give up", Said("give up", None, None, None)),  # this one goes first
        ("x Next: conclusion", Said("finish", None, None, "x Next: conclusion")),  # no "conclusion: ": the whole text
        ("Next: conclusion.</s>conclusion: so: conclusion: 7</s>", Said("finish", None, None, "7")),  # behind the last
        ("a\n Next: caller.</s>caller: I do not know", Said("call", "none", "{}", None)),
        ("a\n Next: caller.", Said("call", "none", "{}", None)),  # no caller's turn: the authors' code fails here
        ("Action: look\n Next: caller.</s>caller: Action: send", Said("call", "send", "{}", None)),  # the caller's part
    ],
)
def test_what_planner_and_caller_or_summariser_say(text, said):
    assert read_roles(text) == said
    assert read(text) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OF_ONE["call"], Said("call", "look", '{"town": "Bern"}', None)),
        (OF_ONE["finish"], Said("finish", None, None, "It is 12 C.")),
        (OF_ONE["give up"], Said("give up", None, None, None)),
        ("I would look in Bern", Said("call", "none", "{}", None)),
        ("", Said("call", "none", "{}", None)),
    ],
)
def test_what_one_model_says(text, said):
    assert read_backbone(text) == said
    assert read(text) == said


def test_name_and_arguments_stand_behind_the_last_of_their_marks():
    text = 'Action: look?\nNo.\nAction: send\nAction Input: {"text": "Action Input: {}"}'
    assert read_backbone(text) == Said("call", "send", '{}"}', None)  # as in the paper: marks within JSON count too
    twice = "Action: look\nAction Input: {}\nAction: send\nAction Input: [1]"
    assert read_backbone(twice) == Said("call", "send", "[1]", None)
    assert read_backbone("Action Input: {}\nAction: send") == Said("call", "send", "{}\nAction: send", None)


@pytest.mark.parametrize("text", [called("look", '{"a": 1}'), called(), FINISHED, GIVES_UP, *OF_ONE.values()])
def test_a_reference_as_its_own_prediction_is_right_in_all(text):
    found = judged(text, text)
    assert found.plan
    assert found.action in (True, None)
    assert found.arguments in (1.0, None)
    assert found.rouge is None or found.rouge == pytest.approx(1, abs=1e-8)
    assert found.rouge_words in (1.0, None)
    assert not found.hallucinated


def test_a_metric_counts_where_the_reference_asks_for_it():
    call, finish, gives_up = judged(called(), called()), judged(FINISHED, FINISHED), judged(GIVES_UP, GIVES_UP)
    assert (call.action, call.arguments, call.rouge) == (True, 1.0, None)
    assert (finish.action, finish.arguments, finish.hard, finish.easy) == (None, None, None, None)
    assert finish.rouge is not None
    assert (gives_up.action, gives_up.arguments, gives_up.rouge) == (None, None, None)
    assert [one.calls for one in (call, finish, gives_up)] == [True, False, False]


@pytest.mark.parametrize(
    ("reference", "prediction", "score"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 2}, 1.0),
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, 0.75),  # s = 1.5 of 2 and of 2
        ({"a": 1, "b": 2}, {"a": 1}, 2 * (1 / 2) * 1 / (1 / 2 + 1)),
        ({"a": 1}, {"a": 1, "c": 9}, 2 * 1 * (1 / 2) / (1 + 1 / 2)),  # a key too many costs precision
        ({"a": 1}, {"b": 1}, 0.0),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 2]}}, 1.0),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [2, 1]}}, 0.5),
        ({"a": 1}, {}, 0.0),
        ({}, {}, 1.0),
        ({}, {"a": 1}, 0.0),
        ({"a": 1}, [1], 0.0),
        ({}, [], 0.0),
        ({"a": 1}, "a", 0.0),
    ],
)
def test_the_score_of_arguments(reference, prediction, score):
    assert argument_score(reference, json.dumps(prediction)) == pytest.approx(score)


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", '{"a": 1} please', "[" * 100_000, "1" * 5000])
def test_arguments_that_are_no_json_are_worth_nothing(text):
    assert argument_score({"a": 1}, text) == 0.0
    assert argument_score({}, text) == 0.0


def test_a_wrong_name_is_worth_nothing_hard_and_easy_alike():
    found = judged(called("look", '{"a": 1}'), called("send", '{"a": 1}'))
    assert (found.action, found.arguments, found.hard, found.easy) == (False, 0.0, 0.0, 0.0)
    assert not found.hallucinated  # the tool is there
    none = judged(called("look", "{}"), FINISHED)
    assert (none.plan, none.action, none.arguments, none.hard, none.easy) == (False, False, 0.0, 0.0, 0.0)


def test_hard_samples_have_arguments_and_easy_ones_none():
    hard, easy = judged(called("look", '{"a": 1}'), called("look", '{"a": 2}')), judged(called(), called())
    assert (hard.arguments, hard.hard, hard.easy) == (0.5, 0.5, None)
    assert (easy.arguments, easy.hard, easy.easy) == (1.0, None, 1.0)


@pytest.mark.parametrize("arguments", ["{", "[1]", '"text"'])
def test_reference_arguments_that_are_no_mapping_are_left_out_where_the_name_is_right(arguments):
    right, wrong = judged(called("look", arguments), called()), judged(called("look", arguments), called("send"))
    assert (right.action, right.arguments, right.hard, right.easy) == (True, None, None, None)
    assert (wrong.action, wrong.arguments) == (False, 0.0)


def test_a_tool_that_is_not_there_is_hallucinated_whatever_the_reference_does():
    for reference in (called(), FINISHED, GIVES_UP):
        found = judged(reference, called("fly"))
        assert (found.hallucinated, found.calls) == (True, True)
    nothing = judged(called(), "a\n Next: caller.</s>caller: hm")
    assert (nothing.hallucinated, nothing.calls) == (False, False)  # "none" is no call
    assert (nothing.plan, nothing.undecided) == (True, True)
    assert not judged(called(), FINISHED).undecided
    assert not judged(called(), GIVES_UP).undecided
    assert not judged(FINISHED, called()).undecided
    assert judged(called(), called("look"), names=[]).hallucinated


def test_no_answer_is_the_answer_none():
    found = judged(FINISHED, called())
    assert (found.plan, found.rouge, found.rouge_words) == (False, 0.0, 0.0)
    none = judged("Next: conclusion.</s>conclusion: none", called())
    assert none.rouge == pytest.approx(1, abs=1e-8)  # the paper's reading: a reference without an answer is "none"


@pytest.mark.parametrize(
    ("reference", "prediction", "value"),
    [
        ("a b c d", "a b c d", 2 / (2 + 1e-8)),
        ("a b c d", "a c x", 2 * (2 / 3 * 1 / 2) / (2 / 3 + 1 / 2 + 1e-8)),
        ("w1 w2 w3 w4 w5", "w1 w2 w6 w7 w8. w1 w3 w8 w9 w5", 2 * (4 / 8 * 4 / 5) / (4 / 8 + 4 / 5 + 1e-8)),  # a union
        ("a a a b", "a b b b", 2 / (2 + 1e-8)),  # words count once
        ("It is 12.5 C.", "It is 12", 2 * (3 / 3 * 3 / 5) / (1 + 3 / 5 + 1e-8)),  # 5 C is a sentence
        ("a, b", "a b", 2 * (1 / 2 * 1 / 2) / (1 + 1e-8)),  # commas stick to words
        ("A", "a", 0.0),
        ("", "a", 0.0), ("a", "", 0.0), ("...", "a", 0.0),
        ("a", " ", 0.0),
    ],
)  # fmt: skip
def test_rouge_l_as_the_package_of_the_paper_counts(reference, prediction, value):
    assert rouge_of_the_paper(reference, prediction) == pytest.approx(value, abs=1e-12)


def test_long_answers_have_no_depth():
    text = " ".join(map(str, range(1200)))
    assert rouge_of_the_paper(text, text[::-1]) < 1


def test_json_is_a_mapping_or_nothing():
    assert parsed('{"a": 1}') == {"a": 1}
    assert parsed("[1]") == [1]
    assert parsed("{") is None


def test_a_judgement_is_of_plain_values():
    assert Judged._fields == (
        "plan", "action", "arguments", "hard", "easy", "calls", "hallucinated", "undecided", "rouge", "rouge_words",
    )  # fmt: skip
