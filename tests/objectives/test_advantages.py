"""From rewards to advantages: by hand, by limits and by identities."""

import math

import pytest
import torch

from trimtab.core import TokenBatch
from trimtab.objectives import advantages as adv

THIRD = torch.tensor([1.0, 0.0, 0.1, 1.0, 0.1, 0.5])
GROUP = torch.tensor([0, 0, 1, 0, 1, 2])


def answers(*lengths: int) -> TokenBatch:
    """Answers of so many tokens."""
    labels = torch.full((len(lengths), max(lengths, default=0) + 1), -100)
    for i, length in enumerate(lengths):
        labels[i, 1 : 1 + length] = 3
    return TokenBatch.from_labels(labels)


# ---------------------------------------------------------------- answers of a group


def test_the_mean_is_that_of_the_answers_to_the_same_prompt_in_any_order():
    found = adv.group_mean(THIRD, GROUP)
    assert found.tolist() == pytest.approx([2 / 3, 2 / 3, 0.1, 2 / 3, 0.1, 0.5])


def test_normalised_by_hand():
    found = adv.group_normalised(THIRD, GROUP)
    std = math.sqrt((2 * (1 / 3) ** 2 + (2 / 3) ** 2) / 2)  # two degrees of freedom
    wanted = [(1 / 3) / (std + 1e-4), (-2 / 3) / (std + 1e-4), 0, (1 / 3) / (std + 1e-4), 0, 0]
    assert found.tolist() == pytest.approx(wanted)


def test_groups_of_equal_rewards_and_of_one_answer_are_exactly_zero():
    equal, group = torch.full((7,), 0.1), torch.tensor([0, 0, 0, 0, 0, 0, 1])
    for found in (
        adv.group_normalised(equal, group),
        adv.group_normalised(equal, group, scale=False),
        adv.leave_one_out(equal, group),
    ):
        assert found.tolist() == [0] * 7


def test_without_scale_it_is_the_difference_to_the_mean():
    torch.testing.assert_close(adv.group_normalised(THIRD, GROUP, scale=False), THIRD - adv.group_mean(THIRD, GROUP))


def test_the_mean_that_leaves_one_out():
    found = adv.leave_one_out(THIRD, GROUP)
    assert found.tolist() == pytest.approx([1 - 0.5, 0 - 1, 0, 1 - 0.5, 0, 0])


@pytest.mark.parametrize("how", [adv.group_mean, adv.group_normalised, adv.leave_one_out])
def test_no_answers_give_no_advantages(how):
    assert how(torch.zeros(0), torch.zeros(0, dtype=torch.long)).shape == (0,)


# ---------------------------------------------------------------- scores of tokens


def test_scores_are_divided_by_the_population_std_of_all_tokens_and_optionally_centred():
    scores = torch.tensor([1.0, 2.0, 3.0, 6.0])
    std = math.sqrt((4 + 1 + 0 + 9) / 4)
    assert adv.standardised(scores, center=False).tolist() == pytest.approx([s / std for s in (1, 2, 3, 6)])
    assert adv.standardised(scores, center=True).tolist() == pytest.approx([(s - 3) / std for s in (1, 2, 3, 6)])


@pytest.mark.parametrize("center", [False, True])
def test_standardised_scores_do_not_change_with_their_unit(center):
    scores = torch.randn(30)
    for factor in (1e-8, 7.0, 1e5):
        torch.testing.assert_close(adv.standardised(factor * scores, center), adv.standardised(scores, center))


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("scores", [torch.full((7,), 0.1), torch.full((3,), -40.0), torch.zeros(2), torch.ones(1)])
def test_scores_that_are_all_alike_say_nothing(scores, center):
    assert adv.standardised(scores, center).tolist() == [0] * len(scores)


def test_scores_that_differ_by_rounding_alone_are_alike():
    ulp = torch.nextafter(torch.tensor(0.1), torch.tensor(1.0)).item()
    assert adv.standardised(torch.tensor([0.1, ulp, 0.1]), False).tolist() == [0, 0, 0]


def test_a_score_that_is_not_a_number_is_not_hidden():
    assert adv.standardised(torch.tensor([1.0, float("nan")]), False).isnan().all()


def test_whitened_values_have_mean_zero_and_unbiased_variance_one():
    found = adv.whitened(5 + 3 * torch.randn(50))
    assert found.mean().item() == pytest.approx(0, abs=1e-6)
    assert found.var().item() == pytest.approx(1, rel=1e-5)
    assert adv.whitened(torch.tensor([1.0, 3.0])).tolist() == pytest.approx([-1 / math.sqrt(2), 1 / math.sqrt(2)])


def test_the_smallest_variance_keeps_whitened_values_finite():
    assert adv.whitened(torch.tensor([0.0, 2e-4])).tolist() == pytest.approx(
        [-1e-4 / math.sqrt(2e-8 + 1e-8), 1e-4 / math.sqrt(2e-8 + 1e-8)]
    )
    for same in (torch.full((7,), 0.1), torch.ones(1), torch.zeros(0)):
        assert adv.whitened(same).tolist() == [0] * len(same)


@pytest.mark.parametrize("how", [lambda x: adv.standardised(x, True), adv.whitened])
def test_no_tokens_stay_no_tokens(how):
    assert how(torch.zeros(0)).shape == (0,)


# ---------------------------------------------------------------- what comes after a token


def test_suffix_sums_run_to_the_end_of_the_same_answer():
    found = adv.suffix_sums(answers(3, 0, 2), torch.tensor([1.0, 2.0, 4.0, 10.0, 20.0]))
    assert found.tolist() == [7, 6, 4, 30, 20]


def test_gae_without_discount_and_values_is_the_reward_to_go():
    batch, rewards = answers(3, 0, 5, 1), torch.randn(9)
    found = adv.gae(batch, rewards, torch.zeros(9), gamma=1.0, lam=1.0)
    torch.testing.assert_close(found, adv.suffix_sums(batch, rewards))


def test_gae_with_lambda_one_is_the_discounted_return_less_the_value():
    batch, rewards, values = answers(3), torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.3, -0.2, 0.7])
    found = adv.gae(batch, rewards, values, gamma=0.9, lam=1.0)
    assert found.tolist() == pytest.approx([1 + 0.9 * 2 + 0.81 * 4 - 0.3, 2 + 0.9 * 4 + 0.2, 4 - 0.7])


def test_gae_with_lambda_zero_looks_one_token_ahead():
    batch, rewards, values = answers(3), torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0.3, -0.2, 0.7])
    found = adv.gae(batch, rewards, values, gamma=0.9, lam=0.0)
    assert found.tolist() == pytest.approx([1 + 0.9 * -0.2 - 0.3, 2 + 0.9 * 0.7 + 0.2, 4 - 0.7])


def test_gae_by_hand_and_the_last_token_of_the_longest_answer_has_its_advantage():
    rewards, values = torch.tensor([0.0, 1.0, 5.0, 0.0, 2.0]), torch.tensor([0.5, 0.4, 1.0, 0.2, 0.3])
    found = adv.gae(answers(2, 3), rewards, values, gamma=0.9, lam=0.8)
    last = 2 - 0.3  # the third token of the longest answer
    middle = 0 + 0.9 * 0.3 - 0.2 + 0.72 * last
    first = 5 + 0.9 * 0.2 - 1.0 + 0.72 * middle
    end = 1 - 0.4  # nothing of the other answer's tokens or of the padding
    assert found.tolist() == pytest.approx([0.9 * 0.4 - 0.5 + 0.72 * end, end, first, middle, last])


def test_gae_of_no_tokens_is_empty():
    assert adv.gae(answers(0, 0), torch.zeros(0), torch.zeros(0), 0.9, 0.8).shape == (0,)


def test_an_advantage_that_is_not_finite_stays_in_its_answer():
    batch, rewards = answers(2, 2), torch.tensor([1.0, float("nan"), 5.0, 6.0])
    assert adv.suffix_sums(batch, rewards)[2:].tolist() == [11, 6]
    assert adv.gae(batch, rewards, torch.zeros(4), 1.0, 1.0)[2:].tolist() == [11, 6]
