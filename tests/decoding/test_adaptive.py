"""Adaptive decoding: what a token is worth by hand, the rules where they differ, and no token lost to rounding."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from trimtab import decoding
from trimtab.decoding.adaptive import AdaptiveWarper, adaptive, confidence, gains

INF = math.inf


def by_hand(p: list[float]) -> list[float]:
    """d_k from the definition of Conf_k, in float64."""
    p, size = sorted(p, reverse=True), len(p)

    def xlogy(x: float, y: float) -> float:
        return x * math.log(y) if x > 0 else 0.0

    def conf(k: int) -> float:
        rest = math.fsum(p[k:])
        known = math.fsum(xlogy(x, x) for x in p[:k])
        return 1 + (known + (xlogy(rest, rest / (size - k)) if k < size else 0.0)) / math.log(size)

    return [conf(k) - conf(k - 1) for k in range(1, size + 1)]


def worth(p) -> torch.Tensor:
    p = torch.as_tensor(p, dtype=torch.float64)[None].sort(descending=True).values
    return gains(p, p.new_zeros(1, 1), torch.tensor([[p.size(1)]]))[0]


def kept(scores, *args, **kwargs) -> list[list[int]]:
    found = adaptive(torch.as_tensor(scores, dtype=torch.float32).log(), *args, **kwargs)
    return [row.isfinite().nonzero()[:, 0].tolist() for row in found]


def test_what_a_token_is_worth_by_hand():
    p = [0.5, 0.2, 0.15, 0.1, 0.05]
    assert worth(p).tolist() == pytest.approx(by_hand(p), abs=1e-12)


def test_of_two_tokens_the_first_is_worth_everything():
    entropy = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))
    assert worth([0.7, 0.3]).tolist() == pytest.approx([1 - entropy / math.log(2), 0.0], abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-8, 8), min_size=2, max_size=40))
def test_increments_are_never_negative_sum_to_the_confidence_and_stay_below_the_probability(logits):
    p = torch.tensor(logits, dtype=torch.float64).softmax(0)
    found = worth(p)
    assert (found > -1e-12).all()
    assert found[-1].abs() < 1e-12
    assert found.sum().item() == pytest.approx(1 + (p * p.log()).sum().item() / math.log(len(p)), abs=1e-9)
    assert (found <= p.sort(descending=True).values + 1e-12).all()


def test_confidence_runs_from_0_to_one_minus_the_normalised_entropy():
    scores = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    p = scores.double().softmax(-1)
    assert confidence(scores, 0).tolist() == [0, 0, 0]
    whole = 1 + (p * p.log()).sum(-1) / math.log(50)
    torch.testing.assert_close(confidence(scores, 50).double(), whole, rtol=1e-5, atol=1e-6)
    assert (confidence(scores, torch.tensor([1, 2, 3])) > 0).all()


PLATEAU = [0.2496] * 4 + [0.0016 / 12] * 12
"""Four equal tokens over a flat tail: they are worth more and more, .064, .08, .12, .229."""


def test_the_rules_differ_on_a_plateau():
    assert worth(PLATEAU)[:4].tolist() == pytest.approx([0.064, 0.08, 0.12, 0.229], abs=0.006)
    assert kept([PLATEAU], 0.1, "threshold") == [[0, 2, 3]]
    assert kept([PLATEAU], 0.1, "prefix") == [[0]]
    assert kept([PLATEAU], 0.1, "last") == [[0, 1, 2, 3]]


def test_the_first_release_takes_a_larger_epsilon_and_keeps_the_least_probable_token():
    p = [0.4, 0.3, 0.15, 0.1, 0.05]
    values = worth(p)
    assert kept([p], values[1].item() * math.log(2) - 1e-4, "legacy") == [[0, 1, 4]]
    assert kept([p], values[1].item() * math.log(2) + 1e-4, "legacy") == [[0, 4]]
    assert kept([p], 0.9, "legacy") == [[4]]
    assert kept([[0.25] * 4], 0.5, "legacy") == [[3]]


def test_the_token_after_which_nothing_is_left_is_kept():
    # with 1 - sum in place of sums over tails, one of two halves and the last of ten were lost
    assert kept([[0.5, 0.5, 0.0, 0.0]], 0.001) == [[0, 1]]
    ten = torch.full((1, 1000), -INF)
    ten[0, :10] = torch.linspace(3, 1, 10)
    assert adaptive(ten, 0.001).isfinite().sum() == 10
    assert kept([[1.0, 0.0, 0.0]], 0.001) == [[0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_candidates_are_looked_at_and_the_answer_is_that_of_all(dtype):
    generator = torch.Generator().manual_seed(1)
    for spread in (1.0, 3.0, 6.0, 12.0):
        scores = (spread * torch.randn(4, 5000, generator=generator)).to(dtype)
        for epsilon in (0.0005, 0.01, 0.1):
            for rule in ("threshold", "prefix", "last"):
                found = adaptive(scores, epsilon, rule).isfinite()
                for row, mask in zip(scores, found):
                    p = row.double().softmax(0)
                    top, ids = p.sort(descending=True, stable=True)
                    value = worth(top)
                    if rule == "threshold":
                        keep = value > epsilon
                    elif rule == "prefix":
                        keep = (value < epsilon).cumsum(0) == 0
                    else:
                        keep = (value > epsilon).flip(0).cumsum(0).flip(0) > 0
                    keep[0] = True
                    sure = (value - epsilon).abs() > 2e-6
                    if rule == "threshold":
                        assert torch.equal(mask[ids][sure], keep[sure])
                    elif sure.all():
                        assert torch.equal(mask[ids], keep)


def test_nothing_is_lost_where_all_others_together_are_less_than_a_rounding_error():
    generator = torch.Generator().manual_seed(7)
    scores = torch.full((200, 2000), -30.0)
    scores[:, :4] = torch.randn(200, 4, generator=generator)  # the sum of their probabilities rounds to 1 or beyond
    assert adaptive(scores, 1e-4).isfinite().sum(-1).tolist() == [4] * 200


def test_kept_scores_are_as_they_were_and_the_callers_tensor_too():
    scores = torch.randn(2, 100, dtype=torch.bfloat16)
    before = scores.clone()
    found = adaptive(scores, 0.01)
    assert found.dtype == torch.bfloat16
    assert torch.equal(scores, before)
    assert torch.equal(found[found.isfinite()], scores[found.isfinite()])


def test_a_constant_and_the_order_of_the_ids_change_nothing():
    scores = 4 * torch.randn(3, 300, generator=torch.Generator().manual_seed(2))
    mask = adaptive(scores, 0.005).isfinite()
    assert torch.equal(adaptive(scores + 7, 0.005).isfinite(), mask)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(3))
    assert torch.equal(adaptive(scores[:, order], 0.005).isfinite(), mask[:, order])


def test_rows_know_nothing_of_each_other():
    scores = torch.randn(4, 300, generator=torch.Generator().manual_seed(8)) * torch.tensor([[0.1], [2], [5], [20]])
    together = adaptive(scores, 0.002)
    assert torch.equal(together, torch.cat([adaptive(row[None], 0.002) for row in scores]))


def test_a_larger_epsilon_keeps_fewer_and_the_largest_one():
    scores = 3 * torch.randn(2, 500)
    masks = [adaptive(scores, epsilon).isfinite() for epsilon in (0.0, 0.001, 0.01, 0.1, 0.999)]
    for more, fewer in itertools.pairwise(masks):
        assert (more | ~fewer).all()
    assert masks[-1].sum(-1).tolist() == [1, 1]
    assert (masks[0].sum(-1) > 450).all()


def test_equal_tokens_are_taken_in_the_order_of_their_ids():
    assert kept([[0.25] * 4], 0.01) == [[0]]
    tied = torch.zeros(1, 3000)
    tied[0, [5, 17, 200]] = 9.0
    assert adaptive(tied, 0.9, min_tokens_to_keep=2).isfinite().nonzero()[:, 1].tolist() == [5, 17]


def test_a_token_at_the_end_of_float32_is_worth_nothing():
    p = torch.tensor([[0.75, 0.25, 1.4e-45, 0.0]])  # divided by anything it would be 0, and its logarithm -inf
    assert gains(p, p.new_zeros(1, 1), torch.tensor([[4]]))[0, 2:].abs().max() < 1e-30


@pytest.mark.parametrize(("spread", "least", "most"), [(3, 70, 120), (5, 20, 80), (8, 8, 28), (12, 2, 18)])
def test_the_set_shrinks_as_the_distribution_sharpens(spread, least, most):
    scores = spread * torch.randn(8, 32_000, generator=torch.Generator().manual_seed(4))
    number = adaptive(scores, 0.0005).isfinite().sum(-1).float().mean().item()
    assert least < number < most


def test_a_flat_distribution_is_greedy_by_default():
    scores = 0.5 * torch.randn(1, 2048, generator=torch.Generator().manual_seed(5))
    assert adaptive(scores, 0.001).isfinite().sum() == 1
    assert adaptive(scores, 0.001, flat="all", flat_below=0.1).isfinite().all()
    some = adaptive(scores, 0.001, flat=0.9, flat_below=0.1)
    p = scores.softmax(-1)
    assert 0.89 < p[some.isfinite()].sum() < 0.91
    sharp = 10 * scores
    assert torch.equal(adaptive(sharp, 0.001, flat="all", flat_below=0.1), adaptive(sharp, 0.001))


def test_excluded_tokens_count_in_v_by_default():
    scores = torch.tensor([[2.0, 1.0, 0.5] + [-INF] * 997])
    assert adaptive(scores, 0.1).isfinite().sum() == 3
    assert adaptive(scores, 0.1, vocab="unmasked").isfinite().sum() == 1


def test_one_token_alone_is_kept():
    assert adaptive(torch.tensor([[3.0]]), 0.5).tolist() == [[3.0]]


@pytest.mark.parametrize("bad", [math.nan, -INF])
def test_scores_without_a_distribution_are_named_with_their_step(bad):
    with pytest.raises(ValueError, match="after 7 tokens: a row of scores has NaN, or only -inf"):
        AdaptiveWarper(0.001)(torch.zeros(2, 7, dtype=torch.long), torch.full((2, 9), bad))


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, 2.0, math.nan])
def test_an_epsilon_that_makes_no_sense_is_refused(epsilon):
    with pytest.raises(ValueError, match=r"epsilon must be at least 0 and below 1"):
        AdaptiveWarper(epsilon)
    with pytest.raises(decoding.DecodingError, match=r"decoding\.epsilon is"):
        decoding.arguments("adaptive", epsilon=epsilon)


def generated(model, **arguments) -> list[list[int]]:
    torch.manual_seed(0)
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    return model.generate(ids, max_new_tokens=12, pad_token_id=0, **arguments).tolist()


def test_generate_samples_from_the_candidates_alone():
    model = tiny.model("llama", initializer_range=0.4)
    greedy = generated(model, **decoding.arguments("greedy"))
    assert generated(model, **decoding.arguments("adaptive", epsilon=0.99)) == greedy
    assert generated(model, **decoding.arguments("adaptive", epsilon=0.0, rule="last")) != greedy


def test_temperature_top_k_and_top_p_come_before_it():
    model = tiny.model("llama", initializer_range=0.4)
    arguments = decoding.arguments("adaptive", epsilon=0.01, temperature=0.5, top_k=9, top_p=0.9)
    scores = 3 * torch.randn(2, 64, generator=torch.Generator().manual_seed(6))
    wanted = scores / 0.5
    wanted = wanted.masked_fill(wanted < wanted.topk(9).values[:, -1:], -INF)
    top, ids = wanted.sort(descending=True)
    before = top.softmax(-1).cumsum(-1) - top.softmax(-1)
    wanted = wanted.masked_fill((before >= 0.9).scatter(1, ids, before >= 0.9), -INF)
    found = arguments["logits_processor"](torch.zeros(2, 3, dtype=torch.long), scores)
    assert torch.equal(found, adaptive(wanted, 0.01))
    assert (arguments["temperature"], arguments["top_k"], arguments["top_p"]) == (1.0, 0, 1.0)
    assert len(generated(model, **arguments)[0]) == 15


def test_beams_keep_more_than_one_token():
    model = tiny.model("llama", initializer_range=0.4)
    warper = AdaptiveWarper(0.5, min_tokens_to_keep=2)
    found = generated(model, num_beams=3, do_sample=True, top_k=0, logits_processor=[warper])
    assert len(found) == 2


def test_it_is_the_authors_masks_where_those_lose_nothing():
    """Their form: with A = p_k log(p_k (V-k)/R_k), B = R_k/(V-k) and C = (R_k+p_k)/(V-k+1),
    d_k = (A + (R_k+p_k) log(B/C)) / log V."""
    p = np.sort(np.random.default_rng(0).dirichlet(np.full(200, 0.2)))[::-1]
    size = len(p)
    k = np.arange(1, size)
    rest = np.cumsum(p[::-1])[::-1][1:]
    a = p[:-1] * np.log(p[:-1] * (size - k) / rest)
    d = (a + (rest + p[:-1]) * np.log(rest / (size - k) / ((rest + p[:-1]) / (size - k + 1)))) / np.log(size)
    assert worth(p.copy())[:-1].tolist() == pytest.approx(d.tolist(), abs=1e-12)
