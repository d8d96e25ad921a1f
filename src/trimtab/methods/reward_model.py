"""Reward models that Q-RM and IPVRM are compared with: outcome, process and implicit ones."""

from functools import partial
from typing import Any, Literal

from pydantic import Field, model_validator
from torch import nn

from trimtab.core import Method, MethodConfig, Plan, Reference, Requirements
from trimtab.objectives.reward_models import (
    Outcomes,
    Pairs,
    StepRatings,
    bradley_terry,
    focal_bradley_terry,
    focal_logistic,
    logistic,
)
from trimtab.signals.columns import Column, Outcome

PAIRWISE = ("orm", "focal", "focal_mean", "pgtg", "dpo_rm")
IMPLICIT = ("dpo_rm", "implicit_prm")


class Config(MethodConfig):
    kind: Literal[
        "orm", "focal", "focal_mean", "pgtg", "dpo_rm", "orm_pointwise", "focal_pointwise", "implicit_prm", "step_prm"
    ] = "orm"
    """From pairs: the last token's score (orm), focal loss on it or on the mean (focal, focal_mean), squashed scores
    (pgtg), the summed log-ratio to the initial policy (dpo_rm). From labels: the last token's score (orm_pointwise,
    focal_pointwise), the summed log-ratio (implicit_prm). From labels of steps: step_prm."""
    head: Literal["scalar", "logit", "logprob"] = "scalar"
    """What scores a token, as in q_rm; not for dpo_rm and implicit_prm."""
    beta: float = Field(0.05, gt=0)
    """Scale of the log-ratio; for dpo_rm and implicit_prm."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Config":
        self.only(self.kind in IMPLICIT, "kinds dpo_rm and implicit_prm", "beta")
        self.only(self.kind not in IMPLICIT, "kinds that score tokens by a head", "head")
        return self


def build(config: Config, policy: nn.Module, reference: Any = None) -> Plan:
    objective: Any
    match config.kind:
        case "orm":
            objective = Pairs(config.head, "last", bradley_terry)
        case "focal":
            objective = Pairs(config.head, "last", partial(focal_bradley_terry, penalty=0.02))
        case "focal_mean":
            objective = Pairs(config.head, "mean", focal_bradley_terry)
        case "pgtg":
            objective = Pairs(config.head, "mean", bradley_terry, squash=True)
        case "dpo_rm":
            objective = Pairs("ratio", "sum", partial(bradley_terry, beta=config.beta))
        case "orm_pointwise":
            objective = Outcomes(config.head, "last", logistic)
        case "focal_pointwise":
            objective = Outcomes(config.head, "last", focal_logistic)
        case "implicit_prm":
            objective = Outcomes("ratio", "sum", logistic, beta=config.beta)
        case "step_prm":
            objective = StepRatings(config.head)
    signals: list[Any] = [reference] if config.kind in IMPLICIT else []
    if "outcome" in objective.needs:
        signals.append(Outcome())
    if "rating" in objective.needs:
        signals.append(Column("rating"))
    return Plan(objective, signals=signals, reduction="sequence_mean")


def requires(config: Config) -> Requirements:
    rows = "pairs" if config.kind in PAIRWISE else "steps" if config.kind == "step_prm" else "outcomes"
    if config.kind in IMPLICIT:
        return Requirements(rows, trains="scorer", models=(Reference(),))
    return Requirements(rows, trains="scalar_head" if config.head == "scalar" else "scorer")


METHOD = Method(
    paper="arXiv:2505.23363 and arXiv:2604.13197 (their baselines)",
    claim="The usual baselines: one score for a whole answer, or for each of its steps.",
    equation="orm: L = -log sigma(z_T(chosen) - z_T(rejected)); the others by `kind`",
    config=Config,
    build=build,
    requires=requires,
)
