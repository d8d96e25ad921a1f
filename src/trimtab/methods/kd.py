"""KD: match the teacher's whole distribution at every answer token, by a divergence of your choice."""

from collections.abc import Callable
from functools import partial
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from trimtab.core import Losses, Method, MethodConfig, Plan, TokenBatch
from trimtab.objectives import divergence as d
from trimtab.signals.teacher import FrozenTeacher


class Config(MethodConfig):
    divergence: Literal["forward_kl", "reverse_kl", "jsd", "skewed_forward_kl", "skewed_reverse_kl"] = "forward_kl"
    """Which divergence between teacher p and student q is made small; forward_kl is KL(p || q)."""
    beta: float = Field(0.5, gt=0, lt=1)
    """Of jsd alone: the teacher's share of the mixture."""
    skew: float = Field(0.1, ge=0, lt=1)
    """Of the skewed divergences alone: the first distribution's share of the mixture."""
    temperature: float = Field(1.0, gt=0)
    """Both distributions are softmax(logits / temperature); the loss is not rescaled by its square."""
    cross_entropy: float = Field(0.0, ge=0, le=1)
    """Share of the loss that is the plain negative log-likelihood of the answer."""


class KD:
    """loss = (1 - c) D(p, q) - c log q(y_t)"""

    needs = frozenset({"teacher"})
    per = "token"

    def __init__(self, divergence: Callable[[Tensor, Tensor], Tensor], temperature: float, cross_entropy: float):
        self.divergence, self.temperature, self.cross_entropy = divergence, temperature, cross_entropy

    def __call__(self, batch: TokenBatch) -> Losses:
        values = self.divergence(
            batch.log_softmax("policy", self.temperature), batch.log_softmax("teacher", self.temperature)
        )
        nll = -batch.logprobs()
        mixed = (1 - self.cross_entropy) * values + self.cross_entropy * nll if self.cross_entropy else values
        return batch.losses(mixed, divergence=values, nll=nll)


def build(config: Config, policy: nn.Module, teacher: FrozenTeacher) -> Plan:
    options = {"jsd": {"beta": config.beta}}
    if config.divergence.startswith("skewed"):
        options[config.divergence] = {"skew": config.skew}
    divergence = partial(getattr(d, config.divergence), **options.get(config.divergence, {}))
    return Plan(KD(divergence, config.temperature, config.cross_entropy), signals=(teacher,))


METHOD = Method(
    paper="arXiv:1503.02531",
    claim="The student learns from the teacher's whole distribution and not only from the one token that was sampled.",
    equation="L_t = (1 - c) D(p_t, q_t) - c log q(y_t)",
    config=Config,
    build=build,
    roles=frozenset({"teacher"}),
)
