"""REINFORCE: make completions more likely in proportion to their reward, or to a reward model's token scores."""

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from trimtab.core import (
    AdvantageEstimator,
    Method,
    MethodConfig,
    Plan,
    Reference,
    Requirements,
    RewardModel,
    Rollouts,
    TokenBatch,
)
from trimtab.objectives.advantages import group_mean, kl_penalised, leave_one_out, standardised
from trimtab.objectives.policy_gradient import Reinforce
from trimtab.objectives.reward_models import gather


class Config(MethodConfig):
    token_reward: Literal["outcome", "tokens"] = "outcome"
    """Reward of a token: that of its whole completion, or its own score from `models.reward_model`, divided by the
    standard deviation of all scores."""
    baseline: Literal["none", "mean", "leave_one_out"] = "none"
    """Baseline subtracted from the reward: none, the mean over all completions of the prompt, or over the others."""
    center: bool = False
    """For token_reward tokens: subtract the mean of the scores first. The paper does; the authors' code (this default)
    does not, and scores of one sign then push all tokens the same way."""
    kl_coef: float = Field(0.0, ge=0)
    """Penalty per nat of absolute log-ratio between the policy and the initial policy at a token."""

    @model_validator(mode="after")
    def _one_baseline(self) -> "Config":
        if self.token_reward == "tokens" and self.baseline != "none":
            raise ValueError(
                f"baseline {self.baseline} is for token_reward outcome; with token_reward tokens set center: true"
            )
        if self.token_reward == "outcome" and self.center:
            raise ValueError("center is for token_reward tokens; with token_reward outcome set baseline: mean")
        return self


def mean_at_last(batch: TokenBatch, rewards: Tensor) -> Tensor:
    """[N] rewards, where the last one of each completion is the mean of the completion's rewards, itself included.

    The last token is the end token, or the last one before the completion was truncated.
    """
    last = batch.position + 1 == batch.lengths[batch.row]
    return torch.where(last, gather(batch, rewards, "mean")[batch.row], rewards)


class ScoreAdvantages(AdvantageEstimator):
    """A_t = r - baseline, or R_t = score_t / std with the mean of the completion at its last token."""

    def __init__(self, config: Config):
        self.config = config
        tokens = {"token_scores"} if config.token_reward == "tokens" else set()
        self.needs = frozenset(tokens | ({"old", "reference"} if config.kl_coef else set()))

    def __call__(self, rollouts: Rollouts) -> dict:
        config, signals = self.config, rollouts.signals
        if config.token_reward == "tokens":
            found = standardised(signals["token_scores"], config.center)
        else:
            found = rollouts.of_token(self._of_answers(rollouts.rewards, rollouts.group))
        if config.kl_coef:
            found = kl_penalised(found, signals["old"], signals["reference"], config.kl_coef)
        return {"advantages": mean_at_last(rollouts.batch, found) if config.token_reward == "tokens" else found}

    def _of_answers(self, rewards: Tensor, group: Tensor) -> Tensor:
        match self.config.baseline:
            case "mean":
                return rewards - group_mean(rewards, group)
            case "leave_one_out":
                return leave_one_out(rewards, group)
        return rewards


def build(config: Config, policy: nn.Module, reward_model: Any = None, reference: Any = None) -> Plan:
    read = [signal for signal in (reward_model, reference) if signal is not None]
    return Plan(Reinforce(), advantages=ScoreAdvantages(config), rollout_signals=read)


def requires(config: Config) -> Requirements:
    scores = [RewardModel()] if config.token_reward == "tokens" else []
    return Requirements(models=(*scores, *([Reference()] if config.kl_coef else [])))


METHOD = Method(
    paper="Williams (1992) and arXiv:2505.23363 (token scores)",
    claim="The simplest policy gradient; with the token scores of Q-RM it needs few steps.",
    equation="L_t = -A_t log pi(y_t),  A = reward - baseline;  tokens: A_t = score_t / std - kl_coef |log-ratio|, "
    "and their mean at the completion's last token",
    config=Config,
    build=build,
    requires=requires,
    loop="rollouts",
)
