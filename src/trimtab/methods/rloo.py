"""RLOO: a whole completion is one action; its baseline is the mean reward of the prompt's other completions."""

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
    """Lower clip range of a completion's probability ratio (negative advantages)."""
    epsilon_high: float | None = Field(None, gt=0)
    """Upper clip range of the ratio (positive advantages); null: epsilon."""
    kl: float = Field(0.05, ge=0)
    """Coefficient of the log-ratio to the initial policy (nats per completion) that is subtracted from the reward."""


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
    """loss = -min(r A, clip(r, 1 - low, 1 + high) A), r the probability ratio of a whole completion."""

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
    claim="For language models, REINFORCE over whole completions with a leave-one-out baseline matches PPO.",
    equation="L = -min(r A, clip(r, 1 - epsilon, 1 + epsilon) A),  r = pi(y) / pi_old(y) of the whole completion,  "
    "A = R - mean of the others' R,  R = reward - kl log pi_old(y) / pi_start(y)",
    config=Config,
    build=build,
    requires=lambda config: Requirements(models=(Reference(),) if config.kl else ()),
    loop="rollouts",
)
