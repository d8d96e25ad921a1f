"""KD: match the teacher's whole distribution at every answer token, with a divergence of your choice."""

from functools import partial
from typing import Literal

from pydantic import Field, model_validator
from torch import nn

from trimtab.core import Method, MethodConfig, Plan, Requirements, Signal, Teacher
from trimtab.objectives import divergence as d
from trimtab.objectives.matching import Match


class Config(MethodConfig):
    divergence: Literal["forward_kl", "reverse_kl", "jsd", "skewed_forward_kl", "skewed_reverse_kl"] = "forward_kl"
    """The divergence between teacher p and student q that is minimised; forward_kl is KL(p || q)."""
    beta: float = Field(0.5, gt=0, lt=1)
    """Teacher's share of the mixture; only for jsd."""
    skew: float = Field(0.1, ge=0, lt=1)
    """First distribution's share of the mixture; only for the skewed divergences."""
    temperature: float = Field(1.0, gt=0)
    """Both distributions are softmax(logits / temperature); the loss is not rescaled by its square."""
    cross_entropy: float = Field(0.0, ge=0, le=1)
    """Weight of the plain negative log-likelihood in the loss."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Config":
        self.only(self.cross_entropy < 1, "a cross_entropy below 1", "divergence", "beta", "skew", "temperature")
        self.only(self.divergence == "jsd", "divergence: jsd", "beta")
        self.only(self.divergence.startswith("skewed"), "the skewed divergences", "skew")
        return self


def build(config: Config, policy: nn.Module, teacher: Signal) -> Plan:
    options = {"jsd": {"beta": config.beta}}
    if config.divergence.startswith("skewed"):
        options[config.divergence] = {"skew": config.skew}
    divergence = partial(getattr(d, config.divergence), **options.get(config.divergence, {}))
    return Plan(Match(divergence, config.temperature, config.cross_entropy), signals=(teacher,))


METHOD = Method(
    paper="arXiv:1503.02531",
    claim="The student learns from the teacher's whole distribution, not only from the one token that was sampled.",
    equation="L_t = (1 - c) D(p_t, q_t) - c log q(y_t)",
    config=Config,
    build=build,
    requires=Requirements(models=(Teacher(),)),
)
