"""Proxy-KD: learn a teacher's texts, and the distributions of its proxy, weighted by how well that fits each text."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from trimtab.core import Losses, Method, MethodConfig, Objective, Plan, Requirements, Signal, Teacher, TokenBatch
from trimtab.objectives.divergence import forward_kl

READ_TOKENS = 512
"""positions of the proxy whose distributions are in memory at a time when rows are weighed"""


class Config(MethodConfig):
    alpha: float = Field(1.0, ge=0)
    """Weight of the divergence from the proxy; 100 in the paper, with an aligned proxy; 0 is SFT."""
    nll_coef: float = Field(1.0, ge=0)
    """Weight of the negative log-likelihood of the teacher's text (the authors' coefficient of cross-entropy)."""
    weighting: Literal["fit", "none"] = "fit"
    """Weight of a row's divergence: by how likely its text is to the proxy, or 1 for all."""
    loglik: Literal["mean", "sum"] = "mean"
    """How likely a text is: mean or sum of its tokens' log-probabilities; weights by the sum mostly follow length."""
    gamma_scale: float = Field(0.4, gt=0)
    """Standard deviations per unit of the weight's logit: 0.4 in the authors' code, 1 in their paper."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Config":
        self.only(self.alpha > 0, "an alpha above 0", "weighting", "loglik", "gamma_scale")
        self.only(self.weighting == "fit", "weighting: fit", "loglik", "gamma_scale")
        if not self.alpha and not self.nll_coef:
            raise ValueError("alpha and nll_coef are both 0, so nothing would be learnt")
        return self


def fit_weights(logliks: Tensor, gamma_scale: float = 0.4) -> Tensor:
    """w_i = sigma((l_i - mu) / (gamma_scale s)), with mu and s the mean and the population standard deviation of l.

    Args:
        logliks: [R] of texts under the proxy, nats.

    Returns:
        [R] in (0, 1): 1/2 at the mean, and for all where s is 0.
        Source: Proxy-KD (arXiv:2401.07013), with the factor of the authors' code.
    """
    spread = logliks.std(correction=0)
    if len(logliks) < 2 or spread <= 1e-12 * logliks.abs().amax():  # equal up to rounding
        return torch.full_like(logliks, 0.5)
    return torch.sigmoid((logliks - logliks.mean()) / (gamma_scale * spread))


class FitWeights(Signal):
    """`fit_weights` of all training rows with an answer, as "row_weight" [N], the same for all tokens of a row.

    The proxy reads every row once before the first update; what it found is kept in checkpoints. A row that was not
    among them, as outside a training loop, has the weight 1/2 of an average one.
    """

    provides = frozenset({"row_weight"})

    def __init__(self, proxy: Signal, loglik: Literal["mean", "sum"] = "mean", gamma_scale: float = 0.4):
        self.proxy, self.loglik, self.gamma_scale = proxy, loglik, gamma_scale
        self.logliks: dict[int, float] = {}
        """row_id -> log-likelihood of its text under the proxy, nats"""
        self._weights: dict[int, float] = {}

    @torch.no_grad()
    def before_training(self, policy: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> None:
        if self.logliks:
            return
        for inputs in batches:
            batch = TokenBatch.from_labels(inputs["labels"], self.proxy(policy, inputs), row_id=inputs["row_id"])
            parts = [batch[i : i + READ_TOKENS] for i in range(0, len(batch), READ_TOKENS)]  # type: ignore[index]
            if not parts:
                continue
            logprobs = torch.cat([part.logprobs(of="teacher") for part in parts])
            found = batch.row_sum(logprobs.double())  # [R]
            if self.loglik == "mean":
                found = found / (batch.lengths + 1e-4)
            answered = batch.lengths > 0
            self.logliks |= zip(batch.row_id[answered].tolist(), found[answered].tolist())
        self._weigh()

    def _weigh(self) -> None:
        values = torch.tensor(list(self.logliks.values()), dtype=torch.float64)
        self._weights = dict(zip(self.logliks, fit_weights(values, self.gamma_scale).tolist()))

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        labels = inputs["labels"]
        of_rows = torch.tensor([self._weights.get(row, 0.5) for row in inputs["row_id"].tolist()], device=labels.device)
        return {"row_weight": of_rows[TokenBatch.from_labels(labels).row]}

    def state_dict(self) -> dict[str, Tensor]:
        logliks = torch.tensor(list(self.logliks.values()), dtype=torch.float64)
        return {"row_ids": torch.tensor(list(self.logliks), dtype=torch.long), "logliks": logliks}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.logliks = dict(zip(state["row_ids"].tolist(), state["logliks"].tolist()))
        if self.logliks:
            self._weigh()


class ProxyKD(Objective):
    """loss = nll_coef (-log q(y_t)) + alpha w KL(p_t || q_t), with p the proxy, and w the row's weight or 1"""

    def __init__(self, alpha: float = 1.0, nll_coef: float = 1.0, weighted: bool = True):
        self.alpha, self.nll_coef, self.weighted = alpha, nll_coef, weighted
        self.needs = frozenset(("teacher", "row_weight")[: (1 + weighted) * (alpha > 0)])

    def __call__(self, batch: TokenBatch) -> Losses:
        if not self.alpha:
            nll = -batch.logprobs()
            return batch.losses(self.nll_coef * nll, nll=nll)
        log_q, log_p = batch.classes("teacher")
        divergence, nll = forward_kl(log_q, log_p), -batch.logprobs()
        metrics = {"divergence": divergence, "nll": nll}
        if self.weighted:
            weight = batch.signals["row_weight"]
            metrics["weight"], metrics["weighted_divergence"] = weight, weight * divergence
        values = self.nll_coef * nll + self.alpha * metrics.get("weighted_divergence", divergence)
        return batch.losses(values, **metrics)


def build(config: Config, policy: nn.Module, teacher: Any = None) -> Plan:
    weighted = config.weighting == "fit"
    objective = ProxyKD(config.alpha, config.nll_coef, weighted)
    if not config.alpha:
        return Plan(objective)
    weights = [FitWeights(teacher, config.loglik, config.gamma_scale)] if weighted else []
    return Plan(objective, signals=(teacher, *weights))


METHOD = Method(
    paper="arXiv:2401.07013",
    claim="A proxy aligned with a teacher that gives text alone lends the student its distributions.",
    equation="L_t = -nll_coef log q(y_t) + alpha w KL(p_t || q_t),  w = sigma((l - mu) / (gamma_scale s)), "
    "l = log p(y|x) / |y|",
    config=Config,
    build=build,
    requires=lambda config: Requirements(models=(Teacher(),) if config.alpha else ()),
)
