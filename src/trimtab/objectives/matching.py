"""Match another model's whole distribution at every answer token."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor

from trimtab.common.errors import UserError
from trimtab.core import Losses, Objective, TokenBatch, TopK, TopKError, class_logprobs

Whose = Literal["teacher", "student"]


class Match(Objective):
    """loss = (1 - c) D(p, q) - (c + n) log q(y_t), with p the teacher and q the policy

    With `top_k` p and q are distributions over K + 1 classes: K tokens, and all others together.

    Args:
        divergence: D, of log-probabilities [N, V] of policy and teacher, in this order, to [N].
        temperature: both distributions are softmax(logits / temperature).
        cross_entropy: c.
        nll_coef: n, added to the whole divergence.
        top_k: K, at most the vocabulary; None for all tokens.
        top_k_of: whose most likely tokens; the student's are those of the moment, which are constants.
        ranks: whether D reads the order of all tokens, which K + 1 classes do not have.
    """

    needs = frozenset({"teacher"})

    def __init__(
        self, divergence: Callable[[Tensor, Tensor], Tensor], temperature: float = 1.0, cross_entropy: float = 0.0,
        nll_coef: float = 0.0, *, top_k: int | None = None, top_k_of: Whose = "teacher", ranks: bool = False,
    ):  # fmt: skip
        self.divergence, self.temperature = divergence, temperature
        self.cross_entropy, self.nll_coef = cross_entropy, nll_coef
        self.top_k, self.top_k_of, self.ranks = top_k, top_k_of, ranks

    def __call__(self, batch: TokenBatch) -> Losses:
        log_q, log_p = self._distributions(batch)
        values = self.divergence(log_q, log_p)
        nll = -batch.logprobs()
        mixed = (1 - self.cross_entropy) * values + self.cross_entropy * nll if self.cross_entropy else values
        if self.nll_coef:
            mixed = mixed + self.nll_coef * nll
        of_classes = self.top_k is not None or isinstance(batch.signals["teacher"], TopK)
        covered = {"covered_mass": -log_p[:, -1].expm1()} if of_classes else {}
        return batch.losses(mixed, divergence=values, nll=nll, **covered)

    def _distributions(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Log-probabilities of policy and teacher, over the vocabulary or over K + 1 classes."""
        teacher = batch.signals["teacher"]
        if isinstance(teacher, TopK) and self.ranks:
            raise teacher.refuse("teacher", "the order of all tokens")
        if isinstance(teacher, TopK) and self.top_k is not None:
            known = teacher.ids.size(1)
            raise TopKError(
                f"options.top_k: {self.top_k}: the teacher is only known by its {known} most likely tokens, which are "
                "compared anyway; leave top_k out"
            )
        if self.top_k is None:
            return batch.classes("teacher", self.temperature)
        if self.top_k > batch.vocab_size:
            raise UserError(f"options.top_k: {self.top_k} is more than the vocabulary's {batch.vocab_size:,} tokens")
        logits = [batch.logits(of).float() / self.temperature for of in ("policy", "teacher")]
        ids = logits[self.top_k_of == "teacher"].detach().topk(self.top_k, dim=-1).indices
        log_q, log_p = (class_logprobs(one, ids) for one in logits)
        return log_q, log_p.detach()
