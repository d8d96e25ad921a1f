"""Match another model's whole distribution at every answer token."""

from collections.abc import Callable

from torch import Tensor

from trimtab.core import Losses, Objective, TokenBatch


class Match(Objective):
    """loss = (1 - c) D(p, q) - (c + n) log q(y_t), with p the teacher and q the policy

    Args:
        divergence: D, of log-probabilities [N, V] of policy and teacher, in this order, to [N].
        temperature: both distributions are softmax(logits / temperature).
        cross_entropy: c.
        nll_coef: n, added to the whole divergence.
    """

    needs = frozenset({"teacher"})

    def __init__(
        self, divergence: Callable[[Tensor, Tensor], Tensor], temperature: float = 1.0, cross_entropy: float = 0.0,
        nll_coef: float = 0.0,
    ):  # fmt: skip
        self.divergence, self.temperature = divergence, temperature
        self.cross_entropy, self.nll_coef = cross_entropy, nll_coef

    def __call__(self, batch: TokenBatch) -> Losses:
        values = self.divergence(
            batch.log_softmax("policy", self.temperature), batch.log_softmax("teacher", self.temperature)
        )
        nll = -batch.logprobs()
        mixed = (1 - self.cross_entropy) * values + self.cross_entropy * nll if self.cross_entropy else values
        if self.nll_coef:
            mixed = mixed + self.nll_coef * nll
        return batch.losses(mixed, divergence=values, nll=nll)
