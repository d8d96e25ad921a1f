"""Prompt variants say what GeoCoT's stages are, and fit items of any suite."""

import pytest

from trimtab.evals.prompts import Example, few_shot, variants
from trimtab.evals.suite import Item
from trimtab.evals.suites.geomrel import EXAMPLES

CHOICE = Item("1", "What is it?", options={"A": "Yes", "B": "No"}, target=("A",))
OPEN = Item("2", "Say something.")


def texts(prompt, item, answers=("Stage one says: P on AB.",)):
    """Of all steps, the last message."""
    return [step(item, answers[:i])[-1]["content"] for i, step in enumerate(prompt)]


@pytest.mark.parametrize("name", variants(EXAMPLES))
@pytest.mark.parametrize("item", [CHOICE, OPEN], ids=["choice", "open"])
def test_each_variant_asks_the_item_and_ends_with_how_to_answer(name, item):
    last = texts(variants(EXAMPLES)[name], item)[-1]
    assert item.text in last
    assert last.splitlines()[-1].endswith(("X being the letter of one option.", "nothing but the result."))
    assert ("A. Yes\nB. No" in last) == bool(item.options)
    assert ("letter of one option" in last) == bool(item.options)


def test_geocot_in_one_call_has_both_stages_in_order():
    (text,) = texts(variants()["geocot"], CHOICE)
    assert 0 < text.index("Stage 1") < text.index("Stage 2") < text.index("Answer: X")


def test_geocot_in_two_calls_hands_the_first_answer_to_the_second():
    first, second = texts(variants()["geocot_two"], CHOICE)
    assert "Stage 1" in first
    assert "Stage 2" not in first
    assert "A. Yes" not in first, "options would tempt to answer"
    assert "Stage one says: P on AB." in second
    assert "Stage 2" in second


def test_few_shot_needs_examples_and_shows_them_as_turns():
    assert "few_shot" not in variants()
    with pytest.raises(ValueError, match="need an example"):
        few_shot(())
    messages = variants(EXAMPLES)["few_shot"][0](CHOICE, ())
    assert [message["role"] for message in messages] == ["user", "assistant"] * len(EXAMPLES) + ["user"]
    assert messages[1]["content"] == f"Answer: {EXAMPLES[0].answer}"


def test_reasoning_is_shown_only_where_it_is_asked_for():
    example = Example("Q?\n\nA. Yes", "Because.", "A")
    (plain,), (reasoned,) = few_shot([example]), few_shot([example], reasoning=True)
    assert "Because." not in plain(CHOICE, ())[1]["content"]
    assert reasoned(CHOICE, ())[1]["content"] == "Because.\nAnswer: A"
