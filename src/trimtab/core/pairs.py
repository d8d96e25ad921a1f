"""Objectives that compare two sequences at some of their tokens."""

import torch

from trimtab.core.batch import COMPARED, TokenBatch
from trimtab.core.loss import Losses, Objective


def pairs_of(batch: TokenBatch) -> tuple[torch.Tensor, torch.Tensor, TokenBatch]:
    """The places of the M pairs of compared tokens, [M] each, and the tokens of sequences 2i among them as a batch, in
    which `COMPARED` has the marks of both, [M, 2]."""
    first, second = batch.compared()
    marks = batch.signals[COMPARED].long()
    both = torch.stack([marks[first], marks[second]], dim=1)
    return first, second, batch[first].with_signals(**{COMPARED: both})  # type: ignore[index]


class PairedObjective(Objective):
    """Values [N + M]: of each answer token, and of each pair of compared tokens.

    The sequences 2i and 2i + 1 of a batch are a pair; `COMPARED` marks which of their tokens belong together.

    Args:
        tokens: per token.
        pairs: per token too, called with a batch of M "tokens", those of the sequences 2i, whose policy's logits
            [M, 2 V] are those at both places, one behind the other.
    """

    per = "pair"

    def __init__(self, tokens: Objective, pairs: Objective):
        self.tokens, self.pairs = tokens, pairs
        self.needs = tokens.needs | pairs.needs | {COMPARED}

    def __call__(self, batch: TokenBatch) -> Losses:
        first, second, pairs = pairs_of(batch)
        logits = batch.logits()
        of_tokens = self.tokens(batch)
        of_pairs = self.pairs(pairs.with_signals(policy=torch.cat([logits[first], logits[second]], dim=-1)))
        values = torch.cat([of_tokens.values, of_pairs.values])
        return Losses(values, {**of_tokens.metrics, **of_pairs.metrics})
