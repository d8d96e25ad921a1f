"""A distribution of which only the K most likely tokens are known: K + 1 classes, the last of them the rest's mass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trimtab.common.errors import UserError

FLOOR = -30_000.0
"""A log-probability whose exponential is exactly 0, in place of -inf: 0 * log 0 must be 0 and not NaN."""


class TopKError(UserError):
    """An objective asks for more than the K most likely tokens of a teacher give."""


@dataclass(frozen=True)
class TopK:
    """The K most likely tokens of a frozen model at each position, with the log of the rest's mass."""

    ids: Tensor
    """[N, K] int64, in descending order of probability; all different at a position"""
    logprobs: Tensor
    """[N, K] nats, float32, normalised over the whole vocabulary"""
    rest: Tensor
    """[N] nats, float32: log of the mass of all other tokens, -inf where there is none"""
    label_logprobs: Tensor
    """[N] nats, float32, of the answer tokens, which need not be among the K"""
    vocab_size: int
    """the tokens that the mass is spread over; others of a policy have no probability"""
    ask: Callable[[Tensor, Tensor], Tensor] | None = None
    """(which answer tokens [m], ids [m] at these places) -> [m] nats, asked of the model; None where it cannot be
    asked any more"""
    place: Tensor | None = None
    """[N] which answer token of the micro-batch, for `ask`"""

    def __getitem__(self, part: slice) -> TopK:
        fields = ("ids", "logprobs", "rest", "label_logprobs", *(["place"] if self.place is not None else []))
        return replace(self, **{name: getattr(self, name)[part] for name in fields})

    def logprobs_of(self, ids: Tensor, targets: Tensor, name: str) -> Tensor:
        """Log-probabilities, exactly, of any ids [N] or [N, M], in nats: what is not known of them is asked for.

        Args:
            targets: [N] the answer tokens.
            name: of the model, for messages.

        Raises:
            TopKError: if nobody can be asked.
        """
        if self.ask is None:
            raise self.refuse(name, "log-probabilities of any token")
        assert self.place is not None
        wide = ids.unsqueeze(-1) if ids.dim() == 1 else ids  # [N, M]
        hits = wide[:, :, None] == self.ids[:, None, :]  # [N, M, K]
        found = (
            self.logprobs.gather(1, hits.int().argmax(dim=-1)) if self.ids.size(1) else torch.zeros_like(wide).float()
        )
        label = wide == targets[:, None]
        found = torch.where(label, self.label_logprobs[:, None], found)
        lacking = ~(hits.any(dim=-1) | label)
        if lacking.any():
            row, column = lacking.nonzero(as_tuple=True)
            found[row, column] = self.ask(self.place[row], wide[row, column]).to(found.dtype)
        return found.view(ids.shape)

    def classes(self) -> Tensor:
        """[N, K + 1] nats: of the K tokens, then of the rest."""
        return torch.cat([self.logprobs, self.rest.clamp(min=FLOOR)[:, None]], dim=1)

    def refuse(self, name: str, asked: str) -> TopKError:
        """The error for an objective that asks for more."""
        return TopKError(
            f"reads {asked} of the {name}, which only gives its {self.ids.size(1)} most likely tokens and the mass of "
            "the rest; use a cache of its hidden states (trimtab precompute --teacher hidden) or the model itself"
        )


class _Classes(torch.autograd.Function):
    """Log-probabilities of chosen tokens, and of all others together."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        double = logits.dtype == torch.float64
        table = torch.log_softmax(logits, dim=-1, dtype=torch.float64 if double else torch.float32)
        chosen = table.gather(-1, ids)
        # summed over the others: 1 - sum of the chosen would leave nothing of a small rest
        rest = table.scatter(-1, ids, -torch.inf).logsumexp(dim=-1, keepdim=True).clamp(min=FLOOR)
        ctx.save_for_backward(table, ids, rest)
        ctx.dtype = logits.dtype
        return torch.cat([chosen, rest], dim=-1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        table, ids, rest = ctx.saved_tensors
        grad = grad_outputs[0].to(table.dtype)  # [N, K + 1]
        of_chosen, of_rest = grad[:, :-1], grad[:, -1:] * (rest > FLOOR)
        # d log q_k = e_k - q,  d log rest = q / rest on the others - q
        total = of_chosen.sum(dim=-1, keepdim=True) + of_rest
        probabilities = table.exp()
        share = (table - rest).scatter(-1, ids, -torch.inf).exp()  # of each other token in the rest
        grad_logits = of_rest * share - total * probabilities
        return grad_logits.scatter_add(-1, ids, of_chosen).to(ctx.dtype), None


def class_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of K tokens, and of the rest of the vocabulary as one class.

    It is a coarsening of the whole distribution: a divergence between two such tables is never negative, 0 for equal
    models and at most the divergence over the whole vocabulary, which it equals for K = V.

    Args:
        logits: [N, V] of any float dtype; sums run in float32 (float64 for float64).
        ids: [N, K], all different at a position.

    Returns:
        [N, K + 1] nats, the last column the log of the rest's mass. Where there is no rest it is `FLOOR`, whose
        probability is exactly 0, and it has no gradient.
    """
    found = _Classes.apply(logits, ids)
    assert isinstance(found, Tensor)
    return found


@torch.no_grad()
def top_k(logits: Tensor, number: int, targets: Tensor) -> TopK:
    """The most likely tokens of logits [N, V].

    Args:
        number: K, at most V.
        targets: [N] the answer tokens.
    """
    ids = logits.topk(number, dim=-1).indices
    found = class_logprobs(logits, ids)
    labels = torch.log_softmax(logits, dim=-1, dtype=torch.float32).gather(-1, targets[:, None])[:, 0]
    rest = found[:, -1].masked_fill(found[:, -1] <= FLOOR, -torch.inf)
    return TopK(ids, found[:, :-1].float(), rest.float(), labels, logits.size(-1))


@torch.no_grad()
def left_out(logits: Tensor, found: TopK) -> Tensor:
    """What the K + 1 classes leave out of the forward KL to a student that spreads the rest's mass evenly.

    With R the other tokens, p_R and q_R the mass that teacher and student have there, and P_R and Q_R their
    distributions within R, by the chain rule

        KL(p || q) = KL of the K + 1 classes + p_R KL(P_R || Q_R),

    so a divergence of classes is a lower bound. What is missing depends on the student; returned is that of one which
    is even within R, p_R (log |R| - H(P_R)) <= p_R log |R|. At the logits the gradient of the classes is exact for the
    K tokens, and p_R (P_R - Q_R) off for the others, in absolute values at most 2 p_R together, whatever the student.

    Args:
        logits: [N, V] that `found` is of.

    Returns:
        [N] nats, >= 0; 0 where K is V.
    """
    number = logits.size(-1) - found.ids.size(-1)
    if number == 0:
        return torch.zeros_like(found.rest)
    table = torch.log_softmax(logits, dim=-1, dtype=torch.float32).scatter(-1, found.ids, FLOOR)
    inside = (table.exp() * table.clamp(min=FLOOR)).sum(dim=-1)  # sum of p log p over R
    rest = found.rest.clamp(min=FLOOR)
    return (rest.exp() * (math.log(number) - rest) + inside).clamp(min=0)
