"""SFT: maximise the likelihood of the answers, the baseline that every other method is compared with."""

from typing import Any, Literal

from pydantic import Field, model_validator
from torch import nn

from trimtab.core import Method, MethodConfig, Plan, Reference, Requirements
from trimtab.objectives.likelihood import Likelihood


class Config(MethodConfig):
    weight: Literal["one", "probability", "ratio"] = "one"
    """Weight of each token: one; its own probability (DFT, arXiv:2508.05629); or its probability ratio to the initial
    policy (importance-weighted SFT, arXiv:2507.12856, at the token level)."""
    cap: float = Field(1.0, gt=0)
    """Largest weight; only with weight ratio."""
    kl: float = Field(0.0, ge=0)
    """Coefficient of KL(policy || initial policy), the baseline SFT-KL; 0.5 in the PSFT paper."""
    kl_form: Literal["k3", "full"] = "k3"
    """Estimate the KL from the answer token, or sum it over the vocabulary, which needs models.reference."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Config":
        self.only(self.weight == "ratio", "weight: ratio", "cap")
        self.only(self.kl > 0, "a kl above 0", "kl_form")
        return self


def build(config: Config, policy: nn.Module, reference: Any = None) -> Plan:
    objective = Likelihood(config.weight, cap=config.cap, kl=config.kl, full_kl=config.kl_form == "full")
    return Plan(objective, signals=(reference,) if objective.needs else ())


def requires(config: Config) -> Requirements:
    if config.kl and config.kl_form == "full":
        return Requirements(models=(Reference(reads="distribution", named=True),))
    return Requirements(models=(Reference(),) if config.kl or config.weight == "ratio" else ())


METHOD = Method(
    paper="maximum likelihood",
    claim="The policy imitates the answers token by token.",
    equation="L_t = -sg(w_t) log q(y_t) + c KL(q || q_start), with w = 1 and c = 0 unless asked for",
    config=Config,
    build=build,
    requires=requires,
)
