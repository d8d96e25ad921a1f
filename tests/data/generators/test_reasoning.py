"""Tasks of reasoning-gym: splits that share nothing, rows that are found again, and its own judges as a reward."""

import json
import sys

import pytest

from trimtab.data.generators import reasoning
from trimtab.data.sources import DataError, load_rows
from trimtab.rewards import verifiable as rewards
from trimtab.rewards.pool import MathPool


def test_a_missing_package_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    reasoning._dataset.cache_clear()
    with pytest.raises(DataError, match="reasoning_gym:chain_sum: reasoning-gym is not installed; run pip install"):
        load_rows("reasoning_gym:chain_sum")


@pytest.fixture
def gym():
    reasoning._dataset.cache_clear()
    return pytest.importorskip("reasoning_gym")


def test_splits_share_no_question_and_a_seed_gives_the_same_rows(gym):
    train, held = (load_rows(f"reasoning_gym:chain_sum/{split}?rows=60&seed=3") for split in reasoning.SPLITS)
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held}
    assert len({row["prompt"] for row in [*train, *held]}) == 120
    assert load_rows("reasoning_gym:chain_sum?rows=60&seed=3") == train
    assert load_rows("reasoning_gym:chain_sum?rows=60&seed=4") != train


def test_options_reach_the_generator(gym):
    rows = load_rows("reasoning_gym:chain_sum?rows=20&min_terms=2&max_terms=2&max_digits=1")
    assert all(row["prompt"].count("+") + row["prompt"].count("-") == 1 for row in rows)


@pytest.mark.parametrize("name", ["chain_sum", "mini_sudoku", "graph_color", "knights_knaves", "word_sorting"])
def test_the_generators_own_answer_is_right_and_another_is_not(gym, name):
    for row in load_rows(f"reasoning_gym:{name}?rows=3"):
        if "answer" in row:
            assert reasoning.score(row["task"], row["answer"]) == 1
        assert reasoning.score(row["task"], "no idea") < 1


def test_as_a_reward_it_reads_tags_the_whole_text_or_its_end(gym):
    row = load_rows("reasoning_gym:chain_sum?rows=1")[0]
    answer, reward = row["answer"], rewards.load("reasoning_gym", wrong=-1.0)
    texts = [
        answer,
        f"We add. The answer is {answer}.",
        f"<think>{answer}</think> 12345678",
        f"{answer} or <answer> {answer} </answer> not 7",
        f"<answer>12345678</answer> {answer}",
        "",
    ]
    prompts = [row["prompt"]] * len(texts)
    found = reward(prompts, texts, task=[row["task"]] * len(texts))
    assert found == [1, 1, -1, 1, -1, -1]


def test_rows_of_other_sources_are_refused(gym):
    reward = rewards.load("reasoning_gym")
    with pytest.raises(rewards.RewardError, match="no `task`"):
        rewards.check_rows(reward, [{"prompt": "1 + 1", "answer": "2"}])
    with pytest.raises(rewards.RewardError, match="none of reasoning-gym's"):
        rewards.check_rows(reward, [{"prompt": "1 + 1", "task": json.dumps({"name": "chain_sum"})}])


@pytest.mark.parametrize(
    "source, said",
    [
        ("reasoning_gym:chain_sums", "has no 'chain_sums'; did you mean"),
        ("reasoning_gym:chain_sum/test", "no split 'test'; there are train and heldout"),
        ("reasoning_gym:chain_sum?max_term=3", "max_term"),
        ("reasoning_gym:chain_sum?min_terms=9&max_terms=2", "max_terms must be >= min_terms"),
        ("reasoning_gym:chain_sum?rows=many", "rows must be a whole number, got 'many'"),
        ("reasoning_gym:chain_sum?rows=500&min_terms=2&max_terms=2&max_digits=1", "distinct questions for train, not"),
    ],
)
def test_what_cannot_be_made_is_reported(gym, source, said):
    with pytest.raises(DataError, match=said):
        load_rows(source)


def test_an_answer_that_never_ends_costs_its_limit_and_the_next_is_judged(gym):
    """The judge of this generator evaluates what was written."""
    row = load_rows("reasoning_gym:countdown?rows=1")[0]
    right = json.loads(row["task"])
    with MathPool(seconds=2.0, workers=1, grader="trimtab.rewards.puzzles") as pool:
        found = pool.grade(["9**9**9**9", "7", reasoning_answer(right)], [row["task"]] * 3)
    assert found == ["timed out", "incorrect", "correct"]


def reasoning_answer(place):
    import reasoning_gym

    made = reasoning_gym.create_dataset(place["name"], size=reasoning.SIZE, seed=place["seed"], **place["options"])
    return made[place["index"]]["metadata"]["expression"]
