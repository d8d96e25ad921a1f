"""What is measured of a dial at each strength, by values worked by hand."""

import math

import pytest
import torch

import tiny_dial
import tiny_folder
from trimtab.evals import dial_sweep
from trimtab.evals.dial_sweep import AtStrength, first_break, kl_to_ends, recommended, undecided

HALF, SKEWED = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.8, 0.2]]).log()


def test_halfway_between_two_known_distributions():
    original, aligned = kl_to_ends(HALF, SKEWED, 0.5)  # sqrt(0.5 * 0.8) : sqrt(0.5 * 0.2) = 2 : 1
    by_hand = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    torch.testing.assert_close(original, torch.tensor([by_hand]))
    by_hand = 2 / 3 * math.log(2 / 3 / 0.8) + 1 / 3 * math.log(1 / 3 / 0.2)
    torch.testing.assert_close(aligned, torch.tensor([by_hand]))


def test_each_end_is_at_no_distance_from_itself():
    logits = torch.randn(2, 5, 11)
    assert kl_to_ends(*logits, 0.0)[0].tolist() == [0.0] * 5
    assert kl_to_ends(*logits, 1.0)[1].tolist() == [0.0] * 5
    assert (kl_to_ends(*logits, 1.0)[0] > 0).all()


def test_the_distance_from_the_original_grows_with_the_strength():
    found = [float(kl_to_ends(HALF, SKEWED, s)[0]) for s in (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0)]
    assert found[:3] == sorted(found[:3], reverse=True)
    assert found[2:] == sorted(found[2:])


def at(strength, nll, repeats=0, tokens=10, rows=8):
    """Answers of ten tokens with so many nats per token, of which so many 4-grams repeat."""
    each = [nll * tokens * (1 + 0.01 * row) for row in range(rows)]
    return AtStrength(
        strength, answers=["a"] * rows, tokens=[tokens] * rows, value=[strength] * rows, nll=each,
        kl_original=[0.0] * rows, kl_aligned=[0.0] * rows, repeats=[repeats] * rows, grams=[10] * rows,
    )  # fmt: skip


def test_it_breaks_at_the_first_strength_whose_perplexity_is_wholly_worse():
    found = [at(0, 1.0), at(1, 1.0), at(1.5, 1.05), at(2, 1.2), at(3, 1.0)]
    assert first_break(found, 0.1) == (None, 2)  # exp(0.05) < 1.1 < exp(0.2)
    assert first_break(found, 0.5) == (None, None)
    assert recommended(found, 0.1) == (0, 1.5)
    assert recommended(found, 0.5) == (0, 3)


def test_below_zero_the_measure_is_the_original():
    found = [at(-2, 2.0), at(-1, 1.5), at(-0.5, 1.0), at(0, 1.0), at(1, 3.0)]
    assert first_break(found, 0.1) == (-1, None)
    assert recommended(found, 0.1) == (-0.5, 1)


def test_answers_that_begin_to_repeat_break_too():
    """Loops are likely texts: their perplexity is low."""
    found = [at(0, 1.0), at(1, 1.0), at(2, 0.1, repeats=5)]
    assert first_break(found, 0.1) == (None, 2)
    assert first_break(found, 0.6) == (None, None)


def test_one_prompt_shows_no_break():
    """It has no interval."""
    found = [at(0, 1.0, rows=1), at(1, 1.0, rows=1), at(2, 9.0, rows=1)]
    assert first_break(found, 0.1) == (None, None)


def test_with_enough_prompts_that_agree_it_is_decided():
    found = [at(0, 1.0), at(1, 1.0), at(1.5, 1.05), at(2, 1.2), at(3, 9.0, rows=8)]
    assert undecided(found, 0.1) == []  # 3 lies beyond the break


def test_prompts_that_disagree_decide_nothing():
    """Half of them are far worse, half as good: the interval of the mean holds the tolerance."""
    mixed = at(2, 1.0)
    mixed.nll = [one * (1.5 if row % 2 else 1.0) for row, one in enumerate(mixed.nll)]
    found = [at(-1, 1.0), at(0, 1.0), at(1, 1.0), mixed]
    assert first_break(found, 0.2) == (None, None)
    assert undecided(found, 0.2) == [2]
    assert undecided(found, 0.9) == []
    mixed.nll, mixed.repeats = at(2, 1.0).nll, [0, 2] * 4
    assert undecided(found, 0.1) == [2]


def test_few_prompts_decide_nothing_even_if_they_agree():
    """Five of five are worse by chance once in 32."""
    found = [at(-1, 1.0, rows=5), at(0, 1.0, rows=5), at(1, 1.0, rows=5), at(2, 1.0, rows=5), at(3, 9.0, rows=5)]
    assert first_break(found, 0.1) == (None, 3)
    assert undecided(found, 0.1) == [-1, 2, 3]
    enough = [at(one.strength, one.nll[0] / 10, rows=6) for one in found]
    assert undecided(enough, 0.1) == []


def test_answers_without_any_4_gram_do_not_repeat():
    found = [at(0, 1.0), at(1, 1.0), at(2, 1.0)]
    for one in found:
        one.grams = [0] * 8
    assert undecided(found, 0.1) == []


def test_measures_are_over_tokens_and_the_property_over_prompts():
    one = at(2, 1.0)
    one.tokens[0], one.value[0], one.value[1] = 30, 7.0, None
    found = dial_sweep.intervals(one)
    assert found["property"].estimate == pytest.approx((7 + 2 * 6) / 7)  # None is left out
    assert found["perplexity"].estimate == pytest.approx(math.exp(sum(one.nll) / 100))


def test_a_strength_is_read_as_it_is_written():
    """At 0 the answers are greedy in the original model, and their log-probabilities are its own."""
    model, original = tiny_dial.expanded()
    tokenizer = tiny_folder.byte_tokenizer()
    rows = [{"prompt": "ab"}, {"prompt": "a longer one"}]
    how = {"new": 6, "temperature": 0.0, "seed": 0}
    zero = dial_sweep.measure(model, tokenizer, rows, 0.0, None, **how)
    one = dial_sweep.measure(model, tokenizer, rows, 1.0, None, **how)
    assert max(map(abs, zero.kl_original + one.kl_aligned)) == 0
    assert min(zero.kl_aligned + one.kl_original) > 0
    assert zero.value == [len(text) for text in zero.ids]
    ids = tokenizer(tokenizer.apply_chat_template(
        [{"role": "user", "content": "ab"}], tokenize=False, add_generation_prompt=True), add_special_tokens=False,
    ).input_ids  # fmt: skip
    total = 0.0
    with torch.no_grad():
        for token in zero.ids[0]:
            log_p = original(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
            assert int(log_p.argmax()) == token
            total -= float(log_p[token])
            ids.append(token)
    assert zero.nll[0] == pytest.approx(total, rel=1e-4)
