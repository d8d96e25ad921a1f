"""RLOO: a completion as a whole is one action, held against the mean of the other answers to its prompt."""

from typing import Any

from pydantic import Field
from torch import nn

from trimtab.core import (
    AdvantageEstimator,
    Losses,
    Method,
    MethodConfig,
    Objective,
    Plan,
    Reference,
    Requirements,
    Rollouts,
    TokenBatch,
)
from trimtab.objectives.advantages import leave_one_out
from trimtab.objectives.policy_gradient import clipped, clipped_surrogate, ratios
from trimtab.objectives.reward_models import gather


class Config(MethodConfig):
    epsilon: float = Field(0.2, gt=0)
    """How far the probability ratio of a whole answer may fall where it was worse than the others."""
    epsilon_high: float | None = Field(None, gt=0)
    """How far it may grow where it was better; null: as far as epsilon."""
    kl: float = Field(0.05, ge=0)
    """Taken from an answer's reward for each nat by which it is likelier than under the start."""


class LeaveOneOut(AdvantageEstimator):
    """A = R - mean of the others' R, with R = reward - kl sum_t (log pi_old - log pi_start)."""

    def __init__(self, kl: float):
        self.kl = kl
        self.needs = frozenset({"old", "reference"} if kl else ())

    def __call__(self, rollouts: Rollouts) -> dict:
        rewards, signals = rollouts.rewards, rollouts.signals
        if self.kl:
            rewards = rewards - self.kl * rollouts.batch.row_sum(signals["old"] - signals["reference"])
        return {"advantages": rollouts.of_token(leave_one_out(rewards, rollouts.group))}


class WholeAnswers(Objective):
    """loss = -min(r A, clip(r, 1 - low, 1 + high) A), r the ratio of the probabilities of a whole answer."""

    per, ratio = "sequence", "old"
    needs = frozenset({"advantages"})

    def __init__(self, low: float, high: float):
        self.low, self.high = low, high

    def __call__(self, batch: TokenBatch) -> Losses:
        logprobs = batch.logprobs()
        old = batch.logprobs(of="old") if "old" in batch.signals else logprobs.detach()
        advantages = gather(batch, batch.signals["advantages"], "last")  # [R]
        answers = (batch.row_sum(logprobs), batch.row_sum(old), advantages, self.low, self.high)
        answered = batch.lengths > 0
        return batch.losses(
            clipped_surrogate(*answers),
            nll=-logprobs,
            ratio=ratios(answers[0], answers[1])[answered],
            clip_fraction=clipped(*answers).float()[answered],
            advantage=advantages[answered],
            zero_advantage=(advantages == 0).float()[answered],
        )


def build(config: Config, policy: nn.Module, reference: Any = None) -> Plan:
    return Plan(
        WholeAnswers(config.epsilon, config.epsilon_high or config.epsilon),
        reduction="sequence_mean",
        advantages=LeaveOneOut(config.kl),
        rollout_signals=(reference,) if reference else (),
    )


METHOD = Method(
    paper="arXiv:2402.14740",
    claim="For language models REINFORCE over whole answers, each the baseline of the others, does what PPO does.",
    equation="L = -min(r A, clip(r, 1 - epsilon, 1 + epsilon) A),  r = pi(y) / pi_old(y) of the whole answer,  "
    "A = R - mean of the other answers' R,  R = reward - kl log pi_old(y) / pi_start(y)",
    config=Config,
    build=build,
    requires=lambda config: Requirements(models=(Reference(),) if config.kl else ()),
    loop="rollouts",
)
