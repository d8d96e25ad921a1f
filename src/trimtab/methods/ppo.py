"""PPO: token rewards minus the value a critic expected, with PPO's clipped surrogate."""

from typing import Any, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from trimtab.core import (
    AdvantageEstimator,
    Critic,
    Method,
    MethodConfig,
    Plan,
    Reference,
    Requirements,
    RewardModel,
    Rollouts,
)
from trimtab.objectives.advantages import at_last, gae, kl_penalised, standardised
from trimtab.objectives.policy_gradient import PolicyGradient
from trimtab.objectives.reward_models import gather


class Config(MethodConfig):
    token_reward: Literal["tokens", "last_everywhere", "last", "outcome"] = "tokens"
    """Reward of a token: its own score from the reward model; the last token's score at every token; or that score at
    the last token only. outcome: the completion's reward at its last token, without a reward model. Scores are divided
    by their standard deviation over all tokens."""
    advantage: Literal["value", "gae"] = "value"
    """The token's reward minus the critic's value of the prefix before it (Q - V), or generalised advantage estimation
    over all that follows."""
    value_coef: float = Field(0.01, ge=0)
    """Weight of the critic's standardised value; for advantage value."""
    center: bool = False
    """Subtract the mean from scores and values before dividing. The paper does; the authors' code (this default) does
    not."""
    gamma: float = Field(0.9, ge=0, le=1)
    """Discount factor of rewards per token; for gae."""
    lam: float = Field(0.8, ge=0, le=1)
    """Lambda of GAE, from 0 (one token ahead) to 1 (all that follows); for gae."""
    kl_coef: float = Field(0.01, ge=0)
    """Penalty per nat of absolute log-ratio between the policy and the initial policy at a token."""
    critic_learning_rate: float = Field(1e-5, gt=0)
    """Learning rate of the critic, which starts as the reward model (or the policy) with a new head and makes one pass
    over each batch of rollouts."""
    critic_mean: Literal["token", "row"] = "token"
    """Average the critic's squared errors over all completion tokens of an update (the authors' code), or over
    completions."""
    epsilon: float = Field(0.2, gt=0)
    """Clip range of a token's probability ratio."""

    @model_validator(mode="after")
    def _every_token_is_paid(self) -> "Config":
        if self.advantage == "value" and self.token_reward in ("last", "outcome"):
            raise ValueError(
                f"token_reward {self.token_reward} rewards the last token only, and advantage value ignores later "
                "tokens; set advantage: gae"
            )
        return self

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Config":
        self.only(self.token_reward != "outcome", "token_reward of a reward model", "center")
        self.only(self.advantage == "value", "advantage: value", "value_coef")
        self.only(self.advantage == "gae", "advantage: gae", "gamma", "lam")
        self.only(self.gamma > 0, "a gamma above 0", "lam")
        read = self.advantage == "gae" or self.value_coef > 0
        self.only(read, "a critic that is read (value_coef above 0)", "critic_learning_rate", "critic_mean")
        return self


class TokenAdvantages(AdvantageEstimator):
    """A_t = R_t - c_v V_t / std(V), or generalised advantages; the critic's targets are R_t, or A_t + V_t."""

    provides = frozenset({"advantages", "returns"})

    def __init__(self, config: Config):
        self.config = config
        scores = set() if config.token_reward == "outcome" else {"token_scores"}
        self.needs = frozenset({"values"} | scores | ({"old", "reference"} if config.kl_coef else set()))

    def __call__(self, rollouts: Rollouts) -> dict:
        config, signals, values = self.config, rollouts.signals, rollouts.signals["values"]
        rewards = self._paid(rollouts)
        if config.kl_coef:
            rewards = kl_penalised(rewards, signals["old"], signals["reference"], config.kl_coef)
        if config.advantage == "value":
            advantages = rewards - config.value_coef * standardised(values, config.center)
            return {"advantages": advantages, "returns": rewards}
        advantages = gae(rollouts.batch, rewards, values, config.gamma, config.lam)
        return {"advantages": advantages, "returns": advantages + values}

    def _paid(self, rollouts: Rollouts) -> Tensor:
        batch, center = rollouts.batch, self.config.center
        if self.config.token_reward == "outcome":
            return at_last(batch, rollouts.of_token(rollouts.rewards))
        scores = rollouts.signals["token_scores"]
        match self.config.token_reward:
            case "last_everywhere":
                return standardised(gather(batch, scores, "last")[batch.row], center)
            case "last":
                return at_last(batch, standardised(scores, center))
        return standardised(scores, center)


def build(config: Config, policy: nn.Module, critic: Any, reward_model: Any = None, reference: Any = None) -> Plan:
    given = [critic, reward_model, reference]
    return Plan(
        PolicyGradient(config.epsilon, config.epsilon),
        advantages=TokenAdvantages(config),
        rollout_signals=[signal for signal in given if signal is not None],
    )


def requires(config: Config) -> Requirements:
    critic = Critic(config.critic_learning_rate, "token_mean" if config.critic_mean == "token" else "sequence_mean")
    scores = () if config.token_reward == "outcome" else (RewardModel(),)
    return Requirements(models=(*scores, critic, *([Reference()] if config.kl_coef else [])))


METHOD = Method(
    paper="arXiv:1707.06347 and arXiv:2505.23363 (token scores)",
    claim="PPO with the token scores of Q-RM instead of generalised advantages needs few steps.",
    equation="L_t = -min(r_t A_t, clip(r_t, 1 - epsilon, 1 + epsilon) A_t),  A_t = R_t - value_coef V_t / std(V),  "
    "R_t = score_t / std - kl_coef |log-ratio|;  or generalised advantages",
    config=Config,
    build=build,
    requires=requires,
    loop="rollouts",
)
