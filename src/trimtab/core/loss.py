"""What an objective returns, and the only division by a count."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from trimtab.common.errors import UserError
from trimtab.core.batch import TokenBatch, answer_mask
from trimtab.core.topk import TopKError

Reduction = Literal["token_mean", "sequence_mean", "sequence_sum", "sum", "pair_mean", "preference_mean"]


IMPORTANCE = "importance"
"""The signal [N] of a rollout loop that weighs the loss of each token, or, the same at all tokens, of a sequence."""


class Losses(NamedTuple):
    """Unreduced loss values with their metrics."""

    values: Tensor
    """[N] per token, [R] per sequence, or [N + M] per pair"""
    metrics: dict[str, tuple[Tensor, Tensor]]
    """name -> (sum, count), detached"""


class LossesError(UserError):
    """An objective that does not return one value for each token or sequence."""


def checked(losses: Any, objective: "Objective", batch: TokenBatch) -> "Losses":
    """The losses of a batch, checked to have one value for each token, or each sequence."""
    return checked_rows(losses, objective, num_values(batch, objective.per))


def checked_rows(losses: Any, objective: "Objective", number: int) -> "Losses":
    """Losses, checked to be so many."""
    name = type(objective).__name__
    if not isinstance(losses, Losses):
        raise LossesError(f"{name} returned a {type(losses).__name__}; return batch.losses(values, name=metric, ...)")
    shape = list(losses.values.shape)
    if shape != [number]:
        raise LossesError(f"{name} returned values of shape {shape}; expected [{number}], one for each {objective.per}")
    return losses


def num_values(batch: TokenBatch, per: str) -> int:
    """How many values an objective `per` token, prefix, sequence, preference or pair has."""
    if per == "sequence":
        return len(batch.lengths)
    if per == "preference":
        return len(batch.lengths) + len(batch)
    return len(batch) + len(batch.compared()[0]) if per == "pair" else len(batch)


def computed_by(objective: "Objective", batch: TokenBatch) -> "Losses":
    """The losses of a batch, `checked`; a TopKError where the objective asks for more than a `TopK` gives names it."""
    try:
        return checked(objective(batch), objective, batch)
    except TopKError as error:
        raise TopKError(f"{type(objective).__name__} {error}") from None


class Objective:
    """A training objective: one unreduced value for each token of a batch; subclasses implement __call__."""

    needs: frozenset[str] = frozenset()
    """Signals it reads besides "policy"."""
    per: str = "token"
    """"token", "sequence", "prefix", "preference" or "pair".
    "token": values [N], none of which depends on another position, so the batch may be cut anywhere.
    "sequence": values [R], made from label log-probabilities; of pairs, rows 2i are chosen and 2i+1 rejected.
    "prefix": values [N] of single tokens, made from label log-probabilities of whole rows.
    "preference": values [R + N], of the sequences of pairs and then of single tokens, from label log-probabilities.
    "pair": values [N + M], of single tokens and of M pairs of them; see `trimtab.core.pairs`."""
    leaf: str = "logprob"
    """What an objective per sequence or prefix is computed from: the label's "logprob", or its "logit"."""
    ratio: str | None = None
    """The signal that it takes a probability ratio to, if that is an earlier state of the same network (a snapshot, the
    sampling policy, the initial policy); dropout is then off, as the other side was computed without it."""
    reads_first: "Objective | None" = None
    """For one per token whose values depend on others of the row: an objective per token that is read for all tokens of
    the micro-batch beforehand, without gradient, and given to `prepared`."""

    def prepared(self, batch: TokenBatch, values: Tensor) -> TokenBatch:
        """The batch with further signals, made from the values [N] of `reads_first`."""
        return batch

    def __call__(self, batch: TokenBatch) -> Losses:
        """Values and metrics of these tokens; see `TokenBatch.losses`."""
        raise NotImplementedError

    def preferences(self, batch: TokenBatch) -> dict[str, Tensor]:
        """For held-out pairs, [P] each: "preference_accuracy" and "preference_margin", if it learns from pairs."""
        return {}

    def tables(self, decode: Callable[[list[int]], Any]) -> dict[str, list[dict[str, Any]]]:
        """Tables for the report, by title; `decode` turns ids into text."""
        return {}


def count(labels: Tensor, how: Reduction, compared: Tensor | None = None) -> Tensor:
    """The denominator of `how` for these labels [B, T]: answer tokens, rows with at least one, or nothing (0); for
    "pair_mean" three of them, [3]: answer tokens of the sequences 2i, of those 2i + 1, and pairs of compared tokens;
    for "preference_mean" two, [2]: rows with an answer token, and answer tokens of the sequences 2i.

    Counts of several micro-batches add up to that of the update.

    Args:
        compared: [B, T], the column `COMPARED`; only for "pair_mean".
    """
    mask = answer_mask(labels)
    if how == "pair_mean":
        marked = mask & (compared[:, 1:] >= 0) if compared is not None else torch.zeros_like(mask)
        return torch.stack([mask[0::2].sum(), mask[1::2].sum(), marked[0::2].sum()])
    if how == "preference_mean":
        return torch.stack([mask.any(dim=1).sum(), mask[0::2].sum()])
    if how == "token_mean":
        return mask.sum()
    if how in ("sequence_mean", "sequence_sum"):
        return mask.any(dim=1).sum()
    if how == "sum":
        return torch.zeros_like(mask.sum())
    raise ValueError(f"reduction must be one of {', '.join(get_args(Reduction))}, not {how!r}")


def weights(batch: TokenBatch, how: Reduction, total: Tensor | float | None = None, per: str = "token") -> Tensor:
    """The weight of each value in the loss of the whole update. This is the only division.

    Args:
        how: "token_mean": every token counts the same; "sequence_mean": every row counts the same and its tokens share
            it; "sequence_sum": the mean over rows of the sums over their tokens; "sum": no division; "pair_mean": the
            mean of two token means, over the first and over the second sequences of pairs, plus the mean over pairs of
            compared tokens; "preference_mean": the mean over sequences, plus the mean over the tokens of the sequences
            2i (the chosen ones), where those of 2i + 1 have no weight.
        total: `count` summed over all micro-batches and processes of the update, divided by the number of processes if
            these average their gradients. None: this batch is the whole update. "sum" takes 0 and None as 1.
        per: of the objective. A sequence has one value, so "token_mean" does not apply; one without an answer
            has weight 0.

    Returns:
        [N] (or [R] per sequence, [R + N] per preference, [N + M] per pair) float32. For "token_mean" and
        "sequence_mean" the weights of an update sum to 1 (times the number of averaging processes), for "sequence_sum"
        to the mean length.
    """
    if per == "sequence":
        answered = (batch.lengths > 0).float()
        if how == "sequence_mean":
            return answered / (answered.sum().clamp(min=1) if total is None else total)
        if how == "sum":
            return answered / (total or 1)
        raise ValueError(f"the reduction of an objective per sequence must be sequence_mean or sum, not {how!r}")
    if per == "pair":
        if how != "pair_mean":
            raise ValueError(f"the reduction of an objective per pair must be pair_mean, not {how!r}")
        return _pair_weights(batch, total)
    if per == "preference":
        if how != "preference_mean":
            raise ValueError(f"the reduction of an objective per preference must be preference_mean, not {how!r}")
        return _preference_weights(batch, total)
    ones = batch.targets.new_ones(len(batch)).float()
    if how == "token_mean":
        total = max(len(batch), 1) if total is None else total
        return ones / total
    if how in ("sequence_mean", "sequence_sum"):
        total = (batch.lengths > 0).sum().clamp(min=1) if total is None else total
        return (ones / batch.lengths[batch.row] if how == "sequence_mean" else ones) / total
    if how == "sum":
        return ones / (total or 1)
    raise ValueError(f"reduction must be token_mean, sequence_mean, sequence_sum or sum, not {how!r}")


def by_importance(batch: TokenBatch, importance: Tensor, per: str) -> Tensor:
    """What multiplies the weights of an objective `per` token, prefix or sequence: [N], or [R], 1 without a token."""
    if per != "sequence":
        return importance
    return importance.new_ones(len(batch.lengths)).index_put((batch.row,), importance)


def _pair_weights(batch: TokenBatch, total: Tensor | float | None) -> Tensor:
    side, num_pairs = batch.row % 2, len(batch.compared()[0])
    if total is None:
        total = torch.tensor([(side == 0).sum(), (side == 1).sum(), num_pairs], device=side.device).clamp(min=1)
    assert isinstance(total, Tensor)
    share = (0.5 / total[:2].float()).to(side.device)
    pairs = (1 / total[2].float()).to(side.device)
    return torch.cat([share[side], pairs.expand(num_pairs)])


def _preference_weights(batch: TokenBatch, total: Tensor | float | None) -> Tensor:
    answered, chosen = (batch.lengths > 0).float(), (batch.row % 2 == 0).float()
    if total is None:
        total = torch.stack([answered.sum(), chosen.sum()]).clamp(min=1)
    assert isinstance(total, Tensor)
    of_rows, of_tokens = total.to(answered.device).float()
    return torch.cat([answered / of_rows, chosen / of_tokens])


def weight_of_rows(values: Tensor, total: Tensor | float) -> Tensor:
    """[R] 1 / total: of values of rows that are sums over the units that `total` counts in the whole update, divided by
    the number of processes if these average their gradients; 0 where there are none."""
    return torch.ones_like(values) / torch.as_tensor(total, device=values.device).clamp(min=1e-6)


def reduce(losses: Losses, weights: Tensor) -> Tensor:
    """The scalar loss: the weighted sum of the values."""
    return (losses.values * weights).sum()
