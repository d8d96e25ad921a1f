"""Measures of text against values worked out by hand."""

import math

import numpy as np
import pytest
import torch

from trimtab.metrics.text_quality import (
    SelfReinforcement,
    cosine,
    distinct,
    diversity,
    mauve,
    repetition,
    zipf,
)


def test_repetition_counts_within_texts_and_divides_over_all():
    texts = ["a b a b", "a b c"]  # pairs: ab ba ab | ab bc
    assert repetition(texts, 2) == pytest.approx(1 - 4 / 5)
    assert repetition(texts, 3) == pytest.approx(0)
    assert repetition(["x x x x x"], 2) == pytest.approx(1 - 1 / 4)
    assert math.isnan(repetition(["one", ""], 2))


def test_diversity_is_the_product_of_what_does_not_repeat():
    text = "a b a b a b"  # 2: 2 of 5, 3: 2 of 4, 4: 2 of 3
    assert diversity([text]) == pytest.approx(2 / 5 * 2 / 4 * 2 / 3)
    assert diversity(["a b c d e f"]) == 1


def test_distinct_counts_over_all_texts():
    assert distinct(["a b a", "a b"], 1) == pytest.approx(2 / 5)
    assert distinct(["a b a", "a b"], 2) == pytest.approx(2 / 3)
    assert math.isnan(distinct(["a"], 2))


def test_zipf_is_the_slope_that_was_put_in():
    words = [f"w{rank} " * round(2520 / rank) for rank in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)]
    assert zipf(["".join(words)]) == pytest.approx(1, abs=1e-6)
    assert zipf(["a b c", "d"]) == pytest.approx(0, abs=1e-9)
    assert math.isnan(zipf(["a a"]))


def test_cosine_of_the_rows_by_hand():
    found = cosine(torch.tensor([[1.0, 0], [1, 1], [1, 0]]), torch.tensor([[2.0, 0], [1, 0], [-1, 0]]))
    assert found.tolist() == pytest.approx([1, 0.5**0.5, -1])


def dist(*p: float) -> torch.Tensor:
    return torch.tensor([*p, 1 - sum(p)])


def test_self_reinforcement_by_hand():
    tracker = SelfReinforcement([0])
    tracker(1, dist(0.1, 0.2, 0.3))  # new token: gram (0, 1), mean (1 + .2)/2
    tracker(1, dist(0.1, 0.5, 0.3))  # .2 < .5: counts; gram (1, 1) mean .5
    tracker(1, dist(0.1, 0.4, 0.3))  # .5 > .4: does not; gram (1, 1) mean .4 < .5: does not; (1, 1, 1) is new
    tracker(1, dist(0.1, 0.6, 0.2))  # .4 < .6: counts; (1, 1) .4 < .6 counts; (1, 1, 1) .4 < .6 counts; (1,1,1,1) new
    rates = tracker.rates()
    assert rates["sr-1"] == pytest.approx(2 / 4)
    assert rates["sr-2"] == pytest.approx(1 / 3)
    assert rates["sr-3"] == pytest.approx(1 / 2)
    assert rates["sr-4"] == 0
    # the two largest: .4 (the last one) + .3, .5 + .3, .4 + .3, .6 + .2 -> means .7, .75, .733, .75
    assert rates["sr-top-2"] == pytest.approx(2 / 4)
    assert rates["sr-top-4"] <= 1 / 4  # always 1, up to rounding


def test_tokens_of_the_prompt_had_probability_1_and_its_grams_what_they_are_given():
    tracker = SelfReinforcement([0, 1])
    tracker(0, dist(0.9, 0.05))
    assert tracker.counts[1] == 0
    tracker(1, dist(0.01, 0.95))  # gram (0, 1) of the prompt had 1e-9, and has (.9 + .95)/2
    assert tracker.counts[2] == 1
    sampled = SelfReinforcement([0, 1], gram=1.0)
    sampled(0, dist(0.9, 0.05))
    sampled(1, dist(0.01, 0.95))
    assert sampled.counts[2] == 0


def test_a_model_that_grows_surer_reinforces_itself_and_one_that_stays_does_not():
    growing, staying = SelfReinforcement([0]), SelfReinforcement([0])
    for step in range(40):
        growing(1, dist(0.1, 0.3 + 0.01 * step))
        staying(1, dist(0.1, 0.3))
    assert growing.rates()["sr-1"] > 0.95
    assert staying.rates()["sr-1"] == 0


def test_mauve_tells_near_from_far():
    pytest.importorskip("mauve")
    draws = np.random.default_rng(0)
    human, like = draws.normal(size=(60, 8)), draws.normal(size=(60, 8))
    assert mauve(human, human) == pytest.approx(1, abs=1e-6)
    assert mauve(human, like) > 0.6
    assert mauve(human, like + 4) < 0.05
    assert mauve(human, like + 1, seed=3) == mauve(human, like + 1, seed=3)
