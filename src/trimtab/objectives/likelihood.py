"""Token-level likelihood of answers, plain or weighted."""

from typing import Literal

import torch
from torch import Tensor

from trimtab.core import Losses, Objective, TokenBatch
from trimtab.objectives.divergence import reverse_kl

LARGEST_LOG_RATIO = 20.0
"""Log-ratios are clamped here before the exponential, which would overflow otherwise."""


def k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """KL(pi || pi_ref) at a position, estimated from its token alone: pi_ref/pi - 1 - log(pi_ref/pi).

    Args:
        logprobs, reference_logprobs: [N] nats, of the answer tokens.

    Returns:
        [N], >= 0; unbiased if the token was sampled from pi. Ratios to the reference are clamped at e^20, where the
        gradient is 0.
        Source: J. Schulman, "Approximating KL divergence" (2020), estimator k3.
    """
    log_ratio = (reference_logprobs - logprobs).clamp(max=LARGEST_LOG_RATIO)
    return torch.expm1(log_ratio) - log_ratio


class Likelihood(Objective):
    """loss = -sg(w_t) log pi(y_t) + c KL(pi || pi_ref)

    Args:
        weight: "one"; "probability", w = pi(y_t), which is DFT (arXiv:2508.05629); or "ratio",
            w = min(pi(y_t) / pi_ref(y_t), cap), importance-weighted SFT (arXiv:2507.12856) at the token level.
        cap: only for "ratio".
        kl: c.
        full_kl: sum the KL over the vocabulary instead of estimating it from the answer token with `k3`.
    """

    def __init__(
        self, weight: Literal["one", "probability", "ratio"] = "one", *, cap: float = 1.0, kl: float = 0.0,
        full_kl: bool = False,
    ):  # fmt: skip
        self.weight, self.cap, self.kl, self.full_kl = weight, cap, kl, full_kl
        self.needs = frozenset({"reference"} if kl or weight == "ratio" else ())
        self.ratio = "reference" if self.needs else None

    def __call__(self, batch: TokenBatch) -> Losses:
        logprobs = batch.logprobs()
        metrics = {"nll": -logprobs}
        values = -self._weight(batch, logprobs.detach()) * logprobs if self.weight != "one" else -logprobs
        if self.kl:
            if self.full_kl:
                metrics["kl"] = reverse_kl(batch.log_softmax(), batch.log_softmax("reference"))
            else:
                metrics["kl"] = k3(logprobs, batch.logprobs(of="reference"))
            values = values + self.kl * metrics["kl"]
        return batch.losses(values, **metrics)

    def _weight(self, batch: TokenBatch, logprobs: Tensor) -> Tensor:
        if self.weight == "probability":
            return logprobs.exp()
        return (logprobs - batch.logprobs(of="reference")).exp().clamp(max=self.cap)
