"""Match a teacher that has another vocabulary: where both begin at the same byte, and over common segments."""

from collections.abc import Callable

import torch
from torch import Tensor

from trimtab.core import Losses, Objective, TokenBatch

FLOOR = -30_000.0
"""log-probability of a class that holds nothing"""
NEAREST = -1e-6
"""a segment's log-probability is taken to be at most this, so that "anything else" keeps a logarithm"""


class TargetLogprobs(Objective):
    """value = log q(y_t) of the policy at a temperature."""

    def __init__(self, temperature: float = 1.0):
        self.temperature = temperature

    def __call__(self, batch: TokenBatch) -> Losses:
        table = batch.log_softmax("policy", self.temperature)
        return Losses(table.gather(1, batch.targets[:, None])[:, 0], {})


class MatchSegments(Objective):
    """loss = (1 - c) [ D(p', q') + D(P, Q) + u sum_i |p_(i) - q_(i)| ] - c log q(y_t)

    The first and the third term are of tokens at which both sides begin at the same byte. p' and q' are distributions
    over the tokens that both vocabularies have, each counted with all tokens that begin with it, and one class for what
    is left; p_(i) and q_(i) are the probabilities of the tokens that one side alone has, in descending order. The
    second is of segments that are several tokens on either side, or begin at different bytes: P and Q hold the
    probability of the segment, a product of conditional ones within each model, and that of anything else. A segment's
    term is shared by its tokens.

    Args:
        divergence: D, of log-probabilities of policy and teacher, in this order, to one value each.
        student_classes, teacher_classes: [V], [V'] the class of each id, from 0 to C, which is that of the rest.
        student_alone, teacher_alone: ids that one side alone has, for u.
        temperature: all distributions are softmax(logits / temperature).
        cross_entropy: c.
        sorted_rest: u.

    Source: segments and their products as of ALM (arXiv:2503.20083), sorted probabilities as of ULD (arXiv:2402.12030).
    """

    needs = frozenset({"teacher", "segment", "starts", "merged", "segment_logprob"})

    def __init__(
        self, divergence: Callable[[Tensor, Tensor], Tensor], student_classes: Tensor, teacher_classes: Tensor, *,
        student_alone: Tensor | None = None, teacher_alone: Tensor | None = None,
        temperature: float = 1.0, cross_entropy: float = 0.0, sorted_rest: float = 0.0,
    ):  # fmt: skip
        self.divergence, self.temperature = divergence, temperature
        self.classes = student_classes, teacher_classes
        self.number = int(max(one.max() for one in self.classes)) + 1
        self.alone = student_alone, teacher_alone
        self.cross_entropy, self.sorted_rest = cross_entropy, sorted_rest
        self.reads_first = self.chosen = TargetLogprobs(temperature)

    def prepared(self, batch: TokenBatch, values: Tensor) -> TokenBatch:
        """With "segment_value", each token's share of the divergence of its segment, and "segment_pull", the derivative
        of that divergence by the token's log-probability."""
        segment, inside = batch.signals["segment"], batch.signals["segment"] >= 0
        number = int(segment.max()) + 1 if inside.any() else 0
        of, kept = segment[inside], values.detach().double()
        log_q = kept.new_zeros(number).index_add(0, of, kept[inside])
        size = kept.new_zeros(number).index_add(0, of, torch.ones_like(kept[inside]))
        log_p = kept.new_zeros(number).scatter(0, of, batch.signals["segment_logprob"][inside].double())
        merged = kept.new_zeros(number).scatter(0, of, batch.signals["merged"][inside].double())
        with torch.enable_grad():
            leaf = log_q.requires_grad_()
            apart = self.divergence(_or_else(leaf), _or_else(log_p))
            (pull,) = torch.autograd.grad(apart.sum(), leaf)
        shares = torch.stack([apart.detach() / size.clamp(min=1), pull]) * merged
        of_tokens = kept.new_zeros(2, len(batch))
        of_tokens[:, inside] = shares[:, of]
        return batch.with_signals(segment_value=of_tokens[0].float(), segment_pull=of_tokens[1].float())

    def __call__(self, batch: TokenBatch) -> Losses:
        if "segment_pull" not in batch.signals:
            batch = self.prepared(batch, self.chosen(batch).values)
        chosen = self.chosen(batch).values
        values = batch.signals["segment_value"] + batch.signals["segment_pull"] * (chosen - chosen.detach())
        places = batch.signals["starts"].nonzero()[:, 0]
        log_q = batch.log_softmax("policy", self.temperature)[places]
        teacher = batch.signals["teacher"][places].compute().float() / self.temperature
        log_p = torch.log_softmax(teacher, dim=-1)
        values = values.index_add(0, places, self._vocabularies(log_q, log_p).to(values.dtype))
        nll = -batch.logprobs()
        mixed = (1 - self.cross_entropy) * values + self.cross_entropy * nll if self.cross_entropy else values
        inside = batch.signals["segment"] >= 0
        return batch.losses(mixed, divergence=values, nll=nll, matched=batch.signals["starts"], aligned=inside)

    def _vocabularies(self, log_q: Tensor, log_p: Tensor) -> Tensor:
        """[n] of the tokens at which both sides begin at the same byte."""
        tables = [_summed(*one, self.number) for one in zip((log_q, log_p), self.classes)]
        found = self.divergence(*tables)
        if not self.sorted_rest:
            return found
        alone = [table[:, ids.to(table.device)] for table, ids in zip((log_q, log_p), self.alone) if ids is not None]
        return found + self.sorted_rest * sorted_distance(*alone)


def _or_else(logprobs: Tensor) -> Tensor:
    """[S, 2]: log-probabilities of the segments, and of anything else."""
    logprobs = logprobs.clamp(max=NEAREST)
    else_small = torch.log1p(-logprobs.exp())
    return torch.stack([logprobs, torch.where(logprobs < -1, else_small, torch.log(-torch.expm1(logprobs)))], dim=-1)


def _summed(table: Tensor, classes: Tensor, number: int) -> Tensor:
    """[n, C + 1] log-probabilities of classes from those of ids [n, V]; `FLOOR` for a class that holds nothing."""
    at = classes.to(table.device).expand(table.size(0), -1)
    most = table.new_full((len(table), number), FLOOR).scatter_reduce(1, at, table.detach(), "amax")
    sums = torch.zeros_like(most).scatter_add(1, at, (table - most.gather(1, at)).exp())
    return torch.where(sums > 0, most + sums.clamp(min=1e-30).log(), FLOOR)


def sorted_distance(student_logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
    """[n] sum_i |p_(i) - q_(i)|, probabilities in descending order, the shorter table filled up with 0.

    No way to pair the two tables' columns brings them nearer.

    Args:
        student_logprobs: [n, V] nats, with gradient.
        teacher_logprobs: [n, V'] nats.

    Source: ULD (arXiv:2402.12030).
    """
    q = student_logprobs.exp().sort(dim=-1, descending=True).values
    p = teacher_logprobs.detach().exp().sort(dim=-1, descending=True).values
    width = max(p.size(-1), q.size(-1))
    q, p = (torch.nn.functional.pad(one, (0, width - one.size(-1))) for one in (q, p))
    return (p - q).abs().sum(dim=-1)
