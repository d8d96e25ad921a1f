"""GRPO: compare each completion with the other completions of the same prompt."""

from typing import Literal

from pydantic import Field, model_validator
from torch import nn

from trimtab.core import AdvantageEstimator, Method, MethodConfig, Plan, Reference, Requirements, Rollouts, Signal
from trimtab.objectives.advantages import group_normalised
from trimtab.objectives.policy_gradient import PolicyGradient


class Config(MethodConfig):
    epsilon: float = Field(0.2, gt=0)
    """Lower clip range of a token's probability ratio (negative advantages)."""
    epsilon_high: float | None = Field(None, gt=0)
    """Upper clip range of the ratio (positive advantages); null: epsilon. DAPO uses 0.28."""
    dual_clip: float | None = Field(None, gt=1)
    """Above this ratio a token with a negative advantage has no gradient either; null: no such bound. EtCon uses 3."""
    scale_rewards: Literal["group", "none"] = "group"
    """Divide advantages by the standard deviation of the group's rewards, or not (Dr. GRPO)."""
    eps: float = Field(1e-4, gt=0)
    """Added to the standard deviation. EtCon (and verl) use 1e-6."""
    kl: float = Field(0.0, ge=0)
    """Coefficient of the KL to the initial policy, estimated from the sampled token. The GRPO paper uses 0.04, with
    kl_form paper."""
    kl_form: Literal["trl", "paper"] = "trl"
    """Multiply the KL estimate by the probability ratio, so that its gradient is that of the KL (as in TRL), or use
    the estimate alone (as printed in the GRPO paper; its gradient on-policy is a different one)."""
    kl_max: float | None = Field(None, gt=0)
    """Largest KL estimate of a token, above which it has no gradient; null: no such bound. EtCon (and verl) use 10."""
    mean: Literal["token", "row"] = "token"
    """Average over all tokens (DAPO), or over completions (the GRPO paper)."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Config":
        self.only(self.kl > 0, "a kl above 0", "kl_form", "kl_max")
        self.only(self.scale_rewards == "group", "scale_rewards: group", "eps")
        return self


class GroupAdvantage(AdvantageEstimator):
    """A_t = (r - mean of the group) / (std of the group + eps), the same at every token of a completion."""

    def __init__(self, scale: bool, kl: bool, eps: float = 1e-4):
        self.scale, self.eps = scale, eps
        self.needs = frozenset({"reference"} if kl else ())
        self.provides = self.needs | {"advantages"}

    def __call__(self, rollouts: Rollouts) -> dict:
        of_answers = group_normalised(rollouts.rewards, rollouts.group, self.scale, self.eps)
        return {"advantages": rollouts.of_token(of_answers)} | {name: rollouts.signals[name] for name in self.needs}


def build(config: Config, policy: nn.Module, reference: Signal | None = None) -> Plan:
    return Plan(
        PolicyGradient(
            config.epsilon,
            config.epsilon_high or config.epsilon,
            dual=config.dual_clip,
            kl=config.kl,
            kl_ratio=config.kl_form == "trl",
            kl_max=config.kl_max,
        ),
        reduction="token_mean" if config.mean == "token" else "sequence_mean",
        advantages=GroupAdvantage(config.scale_rewards == "group", config.kl > 0, config.eps),
        rollout_signals=(reference,) if reference else (),
    )


METHOD = Method(
    paper="arXiv:2402.03300",
    claim="Needs no critic: the mean reward of the completions of the same prompt is the baseline.",
    equation="L_t = -min(r_t A, clip(r_t, 1 - epsilon, 1 + epsilon_high) A) + kl r_t KL_t(pi || pi_start) "
    "(kl_form paper: without r_t),  "
    "A = (reward - mean) / (std + eps) over the group; at most -dual_clip A where A < 0",
    config=Config,
    build=build,
    requires=lambda config: Requirements(models=(Reference(),) if config.kl else ()),
    loop="rollouts",
)
