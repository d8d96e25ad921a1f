"""OPD, on-policy distillation: on the policy's completions, a token's advantage is its log-ratio to the teacher."""

from pydantic import Field
from torch import nn

from trimtab.core import AdvantageEstimator, Method, MethodConfig, Plan, Requirements, Rollouts, Signal, Teacher
from trimtab.objectives.policy_gradient import PolicyGradient


class Config(MethodConfig):
    epsilon: float = Field(0.2, gt=0)
    """Clip range of a token's probability ratio; with a single update per batch of completions the ratio stays 1."""


class LogRatio(AdvantageEstimator):
    """A_t = log p(y_t) - log q_old(y_t): on-policy, its mean is minus KL(q || p), token by token."""

    needs = frozenset({"teacher", "old"})

    def __call__(self, rollouts: Rollouts) -> dict:
        return {"advantages": rollouts.signals["teacher"] - rollouts.signals["old"]}


def build(config: Config, policy: nn.Module, teacher: Signal) -> Plan:
    return Plan(PolicyGradient(config.epsilon, config.epsilon), advantages=LogRatio(), rollout_signals=(teacher,))


METHOD = Method(
    paper="arXiv:2604.20244",
    claim="The student learns on its own completions, where the teacher scores every token.",
    equation="L_t = -min(r_t A_t, clip(r_t, 1 - epsilon, 1 + epsilon) A_t),  A_t = log p(y_t) - log q_old(y_t)",
    config=Config,
    build=build,
    requires=Requirements(models=(Teacher(reads="answers"),)),
    loop="rollouts",
)
