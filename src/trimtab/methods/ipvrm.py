"""IPVRM: the log-ratio of a language model to its initial weights predicts, at every prefix, the final outcome."""

from functools import partial
from typing import Literal

from pydantic import Field
from torch import nn

from trimtab.core import Method, MethodConfig, Plan, Reference, Requirements, Signal
from trimtab.objectives.reward_models import Outcomes, logistic
from trimtab.signals.columns import Outcome


class Config(MethodConfig):
    beta: float = Field(10.0, gt=0)
    """Scale of the mean log-ratio of a prefix; the product is the value of the prefix."""
    margin: float = Field(5.0, ge=0)
    """Margin by which a value must clear 0."""
    mean: Literal["token", "row"] = "token"
    """Average over all tokens (the authors' code), or over answers (their paper)."""
    weighting: Literal["uniform", "early", "late"] = "uniform"
    """Weights of the prefixes of an answer of T tokens: uniform, 1 - t/T, or t/T."""


def build(config: Config, policy: nn.Module, reference: Signal) -> Plan:
    link = partial(logistic, margin=config.margin)
    return Plan(
        Outcomes("ratio", "prefix_mean", link, beta=config.beta, weighting=config.weighting),
        signals=(reference, Outcome()),
        reduction="token_mean" if config.mean == "token" else "sequence_mean",
    )


METHOD = Method(
    paper="arXiv:2604.13197",
    claim="Learns the value of every prefix from the outcomes of whole answers, with training consistent with use.",
    equation="L_t = -[y log sigma(v_t - m) + (1 - y) log sigma(-(v_t + m))], v_t = beta/t sum_{i<=t} log pi/pi_start",
    config=Config,
    build=build,
    requires=Requirements(rows="outcomes", trains="scorer", models=(Reference(),)),
)
