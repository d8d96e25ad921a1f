"""WSPO: transfer the change that alignment made to a weak model to a strong one."""

from typing import Literal

from pydantic import Field, model_validator
from torch import nn

from trimtab.core import (
    Losses,
    Method,
    MethodConfig,
    Objective,
    Plan,
    Reference,
    Requirements,
    Signal,
    TokenBatch,
    WeakPair,
)
from trimtab.data.stored import WEAK_DELTA
from trimtab.signals.columns import Column


class Config(MethodConfig):
    gamma: float = Field(0.1, gt=0)
    """At the optimum the policy's log-ratio is the weak model's divided by gamma: below 1 amplifies the change."""
    level: Literal["token", "sequence_mean"] = "token"
    """What is squared: the difference at each token (the authors' code; stable), or its mean over an answer."""
    mean: Literal["row", "token"] = "row"
    """Average over answers (the authors' code), or over all tokens; only with level token."""
    weak: Literal["live", "column"] = "live"
    """Source of the weak log-ratios: two models run during training, or the column `weak_delta` of the rows, which
    `trimtab precompute` writes."""
    nll_coef: float = Field(0.0, ge=0)
    """Coefficient of an added mean negative log-likelihood of the answer."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Config":
        self.only(self.level == "token", "level: token", "mean")
        return self


class WSPO(Objective):
    """loss = (gamma ds - dw)^2 - c log pi, with ds = log pi - log pi_ref of the policy and dw the same of the weak
    pair"""

    def __init__(self, gamma: float, level: str, column: bool, nll_coef: float = 0.0):
        self.gamma, self.column, self.nll_coef = gamma, column, nll_coef
        self.per, self.ratio = "token" if level == "token" else "sequence", "reference"
        self.needs = frozenset({"reference", *([WEAK_DELTA] if column else ["weak_aligned", "weak_reference"])})

    def __call__(self, batch: TokenBatch) -> Losses:
        strong = batch.logprobs() - batch.logprobs(of="reference")  # [N]
        if self.column:
            weak = batch.signals[WEAK_DELTA]
        else:
            weak = batch.logprobs(of="weak_aligned") - batch.logprobs(of="weak_reference")
        error, nll = self.gamma * strong - weak, -batch.logprobs()
        likelihood = nll
        if self.per == "sequence":
            error, likelihood = (batch.row_sum(one) / batch.lengths.clamp(min=1) for one in (error, nll))  # [R]
        values = error.square() + self.nll_coef * likelihood if self.nll_coef else error.square()
        return batch.losses(values, strong_ratio=strong, weak_ratio=weak, nll=nll)


def build(
    config: Config,
    policy: nn.Module,
    reference: Signal,
    weak_aligned: Signal | None = None,
    weak_reference: Signal | None = None,
) -> Plan:
    weak = [Column(WEAK_DELTA)] if config.weak == "column" else [weak_aligned, weak_reference]
    signals = [signal for signal in (reference, *weak) if signal is not None]
    by_row = config.level == "sequence_mean" or config.mean == "row"
    return Plan(
        WSPO(config.gamma, config.level, config.weak == "column", config.nll_coef),
        signals=signals,
        reduction="sequence_mean" if by_row else "token_mean",
    )


def requires(config: Config) -> Requirements:
    if config.weak == "column":
        return Requirements(columns=(WEAK_DELTA,), models=(Reference(),))
    return Requirements(models=(Reference(), WeakPair()))


METHOD = Method(
    paper="arXiv:2410.18640",
    claim="Transfers the effect of aligning a small model to a large one, amplified if wanted, without preferences.",
    equation="L_t = (gamma (log pi - log pi_ref) - (log pi_weak_aligned - log pi_weak_reference))^2 "
    "- nll_coef log pi(y_t)",
    config=Config,
    build=build,
    requires=requires,
)
