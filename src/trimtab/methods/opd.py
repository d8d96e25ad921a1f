"""OPD, on-policy distillation: on own answers, a token is worth what the teacher finds it likelier than the policy."""

from pydantic import Field
from torch import nn

from trimtab.core import AdvantageEstimator, Method, MethodConfig, Plan, Requirements, Rollouts, Teacher
from trimtab.objectives.policy_gradient import PolicyGradient
from trimtab.signals.frozen import FrozenModel


class Config(MethodConfig):
    epsilon: float = Field(0.2, gt=0)
    """How far a token's probability ratio may move before its gradient stops; without several updates on the same
    answers it never moves."""


class LogRatio(AdvantageEstimator):
    """A_t = log p(y_t) - log q_old(y_t): on own answers its mean is minus KL(q || p), token by token."""

    needs = frozenset({"teacher", "old"})

    def __call__(self, rollouts: Rollouts) -> dict:
        return {"advantages": rollouts.signals["teacher"] - rollouts.signals["old"]}


def build(config: Config, policy: nn.Module, teacher: FrozenModel) -> Plan:
    return Plan(PolicyGradient(config.epsilon, config.epsilon), advantages=LogRatio(), rollout_signals=(teacher,))


METHOD = Method(
    paper="arXiv:2604.20244",
    claim="On its own answers a student is told of every token by how much the teacher would rather not have said it.",
    equation="L_t = -min(r_t A_t, clip(r_t, 1 - epsilon, 1 + epsilon) A_t),  A_t = log p(y_t) - log q_old(y_t)",
    config=Config,
    build=build,
    requires=Requirements(models=(Teacher(reads="answers"),)),
    loop="rollouts",
)
