"""REINFORCE: what a token is paid by an outcome and by a reward model, and the rule for the last token."""

import math

import pytest
import torch
from pydantic import ValidationError

from tiny_rollouts import Reader, rollouts
from trimtab.core import PlanError, Reference, Requirements, RewardModel, TokenBatch, reduce, weights
from trimtab.methods.reinforce import METHOD, Config
from trimtab.objectives.policy_gradient import Reinforce

SCORES = [1.0, 2.0, 6.0, 3.0, 3.0, 3.0]
STD = math.sqrt(sum((s - 3) ** 2 for s in SCORES) / 6)


def paid(found, **settings):
    config = Config(**settings)
    scores = Reader("token_scores") if config.token_reward == "tokens" else None
    plan = METHOD.build(config, None, reward_model=scores, reference=Reader("reference") if config.kl_coef else None)
    return plan.advantages(found)["advantages"]


def outcomes(**signals):
    return rollouts((2, 1, 1), [1.0, 0.0, 0.5], [0, 0, 1], **signals)


@pytest.mark.parametrize(
    ("baseline", "wanted"),
    [("none", [1, 1, 0, 0.5]), ("mean", [0.5, 0.5, -0.5, 0]), ("leave_one_out", [1, 1, -1, 0])],
)
def test_an_outcome_less_its_baseline_is_paid_at_every_token(baseline, wanted):
    assert paid(outcomes(), baseline=baseline).tolist() == wanted


def test_scores_are_paid_over_their_std_and_at_the_last_token_their_mean():
    found = paid(rollouts((3, 1, 2), [0.0] * 3, token_scores=SCORES), token_reward="tokens")
    wanted = [1, 2, 3, 3, 3, 3]  # the last of the first answer is the mean of 1, 2 and 6
    assert found.tolist() == pytest.approx([w / STD for w in wanted])


def test_centred_scores_have_their_mean_taken_first():
    found = paid(rollouts((3, 1, 2), [0.0] * 3, token_scores=SCORES), token_reward="tokens", center=True)
    assert found.tolist() == pytest.approx([-2 / STD, -1 / STD, 0, 0, 0, 0], abs=1e-6)


def test_the_rule_touches_the_last_token_alone():
    scores = torch.randn(7)
    found = paid(rollouts((4, 3), [0.0, 0.0], token_scores=scores), token_reward="tokens")
    plain = scores / scores.std(correction=0)
    assert (found != plain).tolist() == [False] * 3 + [True] + [False] * 2 + [True]
    assert found[3].item() == pytest.approx(plain[:4].mean().item(), rel=1e-5)


def test_the_penalty_is_taken_after_the_scale_in_either_direction_and_before_the_mean():
    old, reference = [-1.0, -1, -1, -1, -1, -1], [-1.0, -3, -1, -1, 1, -1]
    given = rollouts((3, 1, 2), [0.0] * 3, token_scores=SCORES, old=old, reference=reference)
    found = paid(given, token_reward="tokens", kl_coef=0.1)
    rewards = [1 / STD, 2 / STD - 0.2, 6 / STD, 3 / STD, 3 / STD - 0.2, 3 / STD]
    wanted = [*rewards[:2], sum(rewards[:3]) / 3, rewards[3], rewards[4], (rewards[4] + rewards[5]) / 2]
    assert found.tolist() == pytest.approx(wanted)


def test_the_penalty_is_zero_under_the_start_itself_and_reaches_outcomes_too():
    same = outcomes(old=[-1.0] * 4, reference=[-1.0] * 4)
    assert paid(same, kl_coef=0.1).tolist() == [1, 1, 0, 0.5]
    moved = outcomes(old=[-1.0] * 4, reference=[-1.0, -2.0, 1.0, -1.0])
    assert paid(moved, kl_coef=0.1).tolist() == pytest.approx([1, 0.9, -0.2, 0.5])


def test_scores_in_another_unit_pay_the_same():
    scores = torch.randn(6)
    one = paid(rollouts((3, 1, 2), [0.0] * 3, token_scores=scores), token_reward="tokens")
    torch.testing.assert_close(
        paid(rollouts((3, 1, 2), [0.0] * 3, token_scores=50 * scores), token_reward="tokens"), one
    )


def test_the_loss_is_the_mean_over_all_tokens_of_advantage_times_log_probability():
    labels = torch.tensor([[-100, 3, 4, 5], [-100, 2, -100, -100]])
    batch = TokenBatch.align(torch.randn(2, 4, 7), labels)
    plan = METHOD.build(Config(), None)
    found = plan.advantages(rollouts((3, 1), [2.0, -1.0]))
    loss = reduce(plan.objective(batch.with_signals(**found)), weights(batch, plan.reduction))
    logprobs = batch.logprobs()
    assert loss.item() == pytest.approx(-(2 * logprobs[:3].sum() - logprobs[3]).item() / 4, rel=1e-5)


def test_it_asks_for_what_it_reads():
    assert isinstance(METHOD.build(Config(), None).objective, Reinforce)
    assert METHOD.requirements(Config(token_reward="tokens", kl_coef=0.1)).models == (RewardModel(), Reference())
    assert METHOD.requirements(Config()) == Requirements()
    with pytest.raises(PlanError, match="needs reference, token_scores, which no rollout signal"):
        METHOD.build(Config(token_reward="tokens", kl_coef=0.1), None)


def test_a_baseline_or_a_centre_of_the_other_token_reward_is_refused_with_the_way_out():
    with pytest.raises(ValidationError, match="set center: true"):
        Config(token_reward="tokens", baseline="mean")
    with pytest.raises(ValidationError, match="set baseline: mean"):
        Config(center=True)
