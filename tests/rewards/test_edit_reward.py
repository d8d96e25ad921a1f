"""The four-part reward of EtCon, by the tables and the traps of its description."""

import pytest
import torch

from trimtab.rewards.edit import (
    Parts,
    accuracy_part,
    answer_of,
    cleanliness_part,
    contradiction_part,
    format_part,
    heading_part,
    parts,
    settings_of,
)
from trimtab.rewards.verifiable import RewardError, load


def said(answer: str, before: str = "Let us think.", after: str = "") -> str:
    return f"{before} <answer> \\boxed{{{answer}}} </answer>{after}"


def reward(text: str, target: str = "Norway", **how) -> float:
    return parts(text, target, **how).reward


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (said("Norway"), 1.0),
        ("\\boxed{Norway}", 0.0),  # no tags, and so not inside them
        ("<answer> Norway </answer>", 0.5),
        ("<answer> \\boxed{a} \\boxed{b} </answer>", 0.5),
        ("<answer> </answer> \\boxed{Norway}", 0.5),
        ("\\boxed{Norway} <answer> </answer>", 0.5),
        ("<answer> \\boxed{Norway}", 0.0),  # not closed
        (f"{said('Norway')} {said('Norway')}", 0.0),
        ("<answer> \\\\boxed{Norway} </answer>", 0.9),
        ("", 0.0),
    ],
)
def test_the_format_is_one_pair_of_tags_around_one_box(text, value):
    assert format_part(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("answer", "target", "value"),
    [
        ("norway.", "Norway", 1.0),
        ("The Kingdom of Norway", "Norway", 0.75),
        ("Lyon or Paris", "Lyon", 0.75),  # hedging is not seen
        ("not Norway", "Norway", 0.0),
        ("pas Norway", "Norway", 0.75),  # words for no and not are English
        ("no man's land", "no man's land", 1.0),
        ("surely no man's land", "no man's land", 0.75),  # its own "no" is no extra one
        ("Canada", "Norway", 0.0),
        ("Norwayland", "Norway", 0.0),
        ("anything", "", 0.0),
        (None, "Norway", 0.0),
        (None, "", 0.0),
    ],
)
def test_accuracy_is_the_target_or_its_words(answer, target, value):
    assert accuracy_part(answer, target) == value


def test_a_box_holds_no_braces_and_an_empty_one_no_answer():
    assert answer_of(said("Norway")) == "Norway"
    assert answer_of("\\boxed{\\text{Norway}}") is None
    assert answer_of("\\boxed{}") is None
    assert answer_of("\\boxed{ }") is None
    assert reward("<answer> \\boxed{} </answer>", "") == pytest.approx(0.3)  # an empty box is not matched
    assert answer_of("\\boxed{first} \\boxed{second}") == "first"


@pytest.mark.parametrize(("near", "value"), [(0.849, 0.0), (0.85, 0.4), (0.925, 0.5), (1.0, 0.6), (1.0001, 0.6)])
def test_answers_in_other_words_count_by_their_embedding_where_it_is_on(near, value):
    def embed(texts):
        assert texts == ["the north way", "norway"]
        return torch.tensor([[near, 0.0], [1.0, 0.0]], dtype=torch.float64)

    assert accuracy_part("The north way", "Norway", embed) == pytest.approx(value)
    assert accuracy_part("The north way", "Norway") == 0.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (said("Norway"), 1.0),
        (said("Norway", after=" \n"), 1.0),
        (said("Norway", after=" I am sure."), 0.4),
        (said("a") * 3, 0.6),
        (said("a") * 9, 0.2),  # at most .8 is taken
        ("x" * 2001, 0.6),
        (said("Norway", before="x" * 2001, after=" and"), 0.0),
        ("", 1.0),
    ],
)
def test_cleanliness_is_one_answer_at_the_end_of_a_text_that_is_not_long(text, value):
    assert cleanliness_part(text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (said("Norway"), 1.0),
        (said("Norway", after=" The answer is not correct."), 0.0),
        (said("Norway", before="This answer is wrong:"), 0.0),
        (said("Norway", after=" That is incorrect."), 0.0),
        (said("Norway", before="The answer is Norway."), 1.0),
        (said("Norway", before="The answer is Canada."), 0.0),
        (said("Norway", after=" \\boxed{Canada}"), 0.0),
        (said("Norway", before="It is not in Canada."), 1.0),
        ("no answer at all", 1.0),
    ],
)
def test_a_text_that_denies_its_answer_or_names_another_contradicts_itself(text, value):
    assert contradiction_part(text) == value


HEAD = "Re-evaluate Knowledge Network: "


@pytest.mark.parametrize(
    ("text", "old", "value"),
    [
        ("anything", None, 1.0),  # skipped without a context
        ("anything", "Canada", 0.0),  # no such section
        (f"{HEAD}Canada is no longer the country.", "Canada", 1.0),
        (f"{HEAD}That Canada is correct is outdated.", "Canada", 1.0),  # negatives are looked for first
        (f"{HEAD}Canada remains the country.", "Canada", 0.0),
        (f"{HEAD}Canada is a country.", "Canada", 0.5),
        (f"{HEAD}Canada {'x ' * 14}outdated", "Canada", 1.0),
        (f"{HEAD}Canada {'x ' * 15}outdated", "Canada", 0.5),  # more than 15 words away
        (f"{HEAD}Synthesis: Canada is outdated.", "Canada", 0.5),  # the section has ended
    ],
)
def test_under_its_heading_the_old_fact_is_called_wrong_or_right(text, old, value):
    assert heading_part(text, old) == value


def test_the_whole_is_the_weighted_sum_and_nothing_without_the_format():
    assert Parts(1, 1, 1, 1).reward == 1.0
    assert Parts(0, 1, 1, 1).reward == 0.0
    assert Parts(0.5, 0.75, 0.4, 0.5).reward == pytest.approx(0.025 + 0.525 + 0.06 + 0.05)
    assert reward(said("Norway")) == 1.0
    assert reward(said("Canada")) == 0.3  # wrong and well formatted
    assert reward("\\boxed{Norway}") == 0.0  # right and bare
    denied = said("Norway", after=" The answer is not correct.")
    assert reward(denied, consistency="heading") == 0.91  # the code's rule takes only the text behind it
    assert reward(denied) == 0.81
    assert reward("") == 0.0


def test_it_is_a_reward_of_recipes_with_its_parts_in_the_log():
    seen = {}
    made = load("edit", correct=0.85)
    columns = {"answer": ["Norway", "Norway"], "ground_truth": ["Canada", "Canada"], "log_metric": seen.__setitem__}
    chat = [{"role": "assistant", "content": said("Canada")}]
    assert made(["q", "q"], [said("Norway"), chat], [[0]] * 2, **columns) == [1.0, 0.3]
    assert seen == {"edit/format": 1.0, "edit/accuracy": 0.5, "edit/cleanliness": 1.0, "edit/consistency": 1.0}
    assert made(["q", "q"], ["", chat], [[0]] * 2, **columns) == [0.0, 0.3]
    with pytest.raises(RewardError, match="no `answer`"):
        made(["q"], [said("a")], [[0]], answer=[""])


def test_its_options_are_checked_and_an_embedding_is_never_silently_left_out(monkeypatch):
    with pytest.raises(ValueError, match="no option 'embed'"):
        load("edit", options={"embed": True})
    with pytest.raises(ValueError, match="choose contradiction or heading"):
        load("edit", options={"consistency": "both"})
    with pytest.raises(RewardError, match="reward exact has no options"):
        load("exact", options={"embedding": True})
    assert settings_of({}) == {"consistency": "contradiction"}
    monkeypatch.setattr("trimtab.metrics.embeddings.PACKAGE", "no_such_package")
    with pytest.raises(ValueError, match="embedding is true, and its model is not installed"):
        load("edit", options={"embedding": True})
