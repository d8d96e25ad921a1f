"""Q-RM: a reward model whose mean token score ranks the chosen answer above the rejected one."""

from functools import partial
from typing import Literal

from pydantic import Field, model_validator
from torch import nn

from trimtab.core import Method, MethodConfig, Plan, Requirements
from trimtab.objectives.reward_models import Pairs, bradley_terry


class Config(MethodConfig):
    head: Literal["scalar", "logit", "logprob"] = "scalar"
    """What scores a token: a new linear head on its hidden state, the language model's own logit of it, or its
    log-probability (the loss is then SimPO's)."""
    beta: float = Field(0.2, gt=0)
    """Scale of the difference between the mean scores of the two answers."""
    margin: float = Field(2.0, ge=0)
    """Margin by which the chosen answer must win; not multiplied by beta."""
    nll: float = Field(0.0, ge=0)
    """Coefficient of the chosen answer's mean negative log-likelihood; only for head logprob."""

    @model_validator(mode="after")
    def _likelihood(self) -> "Config":
        if self.nll and self.head != "logprob":
            raise ValueError(
                f"nll is {self.nll} and head {self.head}: only head logprob has a likelihood; leave nll out"
            )
        return self


def build(config: Config, policy: nn.Module) -> Plan:
    link = partial(bradley_terry, beta=config.beta, margin=config.margin)
    return Plan(Pairs(config.head, "mean", link, nll=config.nll), reduction="sequence_mean")


def requires(config: Config) -> Requirements:
    return Requirements(rows="pairs", trains="scalar_head" if config.head == "scalar" else "scorer")


METHOD = Method(
    paper="arXiv:2505.23363",
    claim="Preferences between whole answers teach a reward model to score single tokens.",
    equation="L = -log sigma(beta (mean_t z_t(chosen) - mean_t z_t(rejected)) - margin)",
    config=Config,
    build=build,
    requires=requires,
)
