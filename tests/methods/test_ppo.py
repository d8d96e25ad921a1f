"""PPO: Q - V and generalised advantages, what the critic learns, and how the last token's score is spread."""

import pytest
import torch
from pydantic import ValidationError

from tiny_rollouts import Reader, rollouts
from trimtab.core import Critic, PlanError, Reference, RewardModel
from trimtab.methods.ppo import METHOD, Config
from trimtab.objectives.advantages import gae

LENGTHS = (3, 2)
SCORES, VALUES = torch.tensor([1.0, 2.0, 6.0, 3.0, 3.0]), torch.tensor([0.5, -0.5, 1.0, 2.0, 0.0])
OLD = {"old": torch.full((5,), -1.0), "reference": torch.tensor([-1.0, -3.0, -1.0, 1.0, -1.0])}
PENALTY = torch.tensor([0.0, 2.0, 0.0, 2.0, 0.0])


def plan(**settings):
    config = Config(**settings)
    scores = None if config.token_reward == "outcome" else Reader("token_scores")
    reference = Reader("reference") if config.kl_coef else None
    return METHOD.build(config, None, critic=Reader("values"), reward_model=scores, reference=reference)


def advantages_of(scores=SCORES, **settings):
    return plan(**settings).advantages(rollouts(LENGTHS, [1.0, -2.0], token_scores=scores, values=VALUES, **OLD))


def std(values):
    return values.std(correction=0)


def test_the_advantage_is_the_scaled_score_less_the_penalty_and_a_little_of_the_scaled_value():
    found = advantages_of()
    rewards = SCORES / std(SCORES) - 0.01 * PENALTY
    torch.testing.assert_close(found["returns"], rewards)
    torch.testing.assert_close(found["advantages"], rewards - 0.01 * VALUES / std(VALUES))


def test_centred_scores_and_values_both_lose_their_mean():
    found = advantages_of(center=True, kl_coef=0.0, value_coef=0.5)
    assert found["returns"].mean().item() == pytest.approx(0, abs=1e-6)
    wanted = (SCORES - 3) / std(SCORES) - 0.5 * (VALUES - 0.6) / std(VALUES)
    torch.testing.assert_close(found["advantages"], wanted)


def test_without_the_critics_share_the_advantage_is_what_was_paid():
    found = advantages_of(value_coef=0.0)
    assert torch.equal(found["advantages"], found["returns"])


def test_scores_in_another_unit_pay_the_same():
    torch.testing.assert_close(advantages_of(scores=100 * SCORES)["advantages"], advantages_of()["advantages"])


def test_generalised_advantages_read_raw_values_and_returns_are_both_together():
    found = advantages_of(advantage="gae", gamma=0.7, lam=0.6)
    batch = rollouts(LENGTHS, [0.0, 0.0]).batch
    wanted = gae(batch, SCORES / std(SCORES) - 0.01 * PENALTY, VALUES, 0.7, 0.6)
    torch.testing.assert_close(found["advantages"], wanted)
    torch.testing.assert_close(found["returns"], wanted + VALUES)
    assert (Config().gamma, Config().lam) == (0.9, 0.8)


def test_the_last_score_is_spread_before_the_scale_or_kept_alone_after_it():
    everywhere = torch.tensor([6.0, 6, 6, 3, 3])
    found = advantages_of(token_reward="last_everywhere", value_coef=0.0, kl_coef=0.0)["advantages"]
    torch.testing.assert_close(found, everywhere / std(everywhere))
    alone = advantages_of(token_reward="last", advantage="gae", gamma=1.0, lam=1.0, kl_coef=0.0)["returns"]
    torch.testing.assert_close(alone, torch.tensor([6.0, 6, 6, 3, 3]) / std(SCORES))


def test_an_outcome_is_paid_as_it_is_at_the_last_token():
    found = advantages_of(token_reward="outcome", advantage="gae", gamma=1.0, lam=1.0, kl_coef=0.0)
    torch.testing.assert_close(found["returns"], torch.tensor([1.0, 1, 1, -2, -2]))
    assert METHOD.requirements(Config(token_reward="outcome", advantage="gae")).model(RewardModel) is None
    assert plan(token_reward="outcome", advantage="gae").advantages.needs == {"values", "old", "reference"}


def test_a_critic_that_says_nothing_yet_takes_nothing():
    given = rollouts(LENGTHS, [0.0, 0.0], token_scores=SCORES, values=torch.full((5,), 0.3))
    found = plan(kl_coef=0.0).advantages(given)
    assert torch.equal(found["advantages"], found["returns"])


@pytest.mark.parametrize("token_reward", ["last", "outcome"])
def test_what_is_paid_at_the_last_token_alone_needs_generalised_advantages(token_reward):
    with pytest.raises(ValidationError, match="set advantage: gae"):
        Config(token_reward=token_reward)


def test_it_asks_for_what_it_reads_and_clips_at_two_tenths():
    required = METHOD.requirements(Config(critic_learning_rate=3e-4))
    assert required.models == (RewardModel(), Critic(3e-4), Reference())
    assert METHOD.requirements(Config(kl_coef=0.0)).model(Reference) is None
    objective = plan().objective
    assert (objective.low, objective.high, plan().reduction) == (0.2, 0.2, "token_mean")
    with pytest.raises(PlanError, match="needs token_scores, which no rollout signal"):
        METHOD.build(Config(kl_coef=0.0), None, critic=Reader("values"))
