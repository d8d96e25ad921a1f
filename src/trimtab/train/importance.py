"""Correct updates for completions that an engine sampled: its probabilities are not quite those of the policy."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from trimtab.common.errors import UserError
from trimtab.core import Plan, TokenBatch


class CorrectionError(UserError):
    """A correction that does not fit the method."""


class Correction(NamedTuple):
    """How the ratio of the policy's probability to the engine's becomes a weight, as in TRL under the same names."""

    mode: str
    """token_truncate, token_mask, sequence_truncate or sequence_mask"""
    low: float | None
    """C_min, on the ratio of a token or of a whole completion; None: no bound"""
    high: float | None
    """C_max"""

    @property
    def of_sequences(self) -> bool:
        return self.mode.startswith("sequence")

    @property
    def masks(self) -> bool:
        return self.mode.endswith("mask")

    def __str__(self) -> str:
        low, high = ("no bound" if bound is None else f"{bound:g}" for bound in (self.low, self.high))
        return f"{self.mode}, {low} to {high}"


def correction_of(args: Any) -> Correction | None:
    """The correction under these settings (a GRPOConfig); None if it is off."""
    if not args.vllm_importance_sampling_correction:
        return None
    low, high = args.vllm_importance_sampling_clip_min, args.vllm_importance_sampling_clip_max
    return Correction(args.vllm_importance_sampling_mode, low, high)


def check_correction(correction: Correction | None, plan: Plan) -> None:
    """Raise a CorrectionError for weights of tokens where the objective has one value for a whole completion."""
    if correction is not None and not correction.of_sequences and plan.objective.per == "sequence":
        raise CorrectionError(
            f"training.vllm_importance_sampling_mode is {correction.mode}, and the method has one value for a whole "
            "completion; choose sequence_mask or sequence_truncate"
        )


class Weighed(NamedTuple):
    """The weights of completion tokens, and what they are made of."""

    weights: Tensor
    """[N]; those of a whole completion are the same at all of its tokens"""
    ratio: Tensor
    """before the bounds: [N] of tokens, or [R] of completions with at least one"""
    beyond: Tensor
    """where the ratio is out of bounds, as `ratio`; bool"""
    difference: Tensor
    """[M] |log q_old - log q_engine| (nats) of the tokens whose log-probability the engine told"""


def importance(batch: TokenBatch, old: Tensor, sampled: Tensor, correction: Correction) -> Weighed:
    """w_t = clip(q_old(y_t) / q_engine(y_t), C_min, C_max), or 0 where a mode that masks finds it out of bounds; in the
    modes of sequences the ratio is that of the whole completion.

    Args:
        batch: completion tokens.
        old: [N] log-probabilities (nats) under the policy that the engine was to sample from, at its temperature.
        sampled: [N] what the engine says of its own distribution, after temperature and filters; NaN where it does not:
            the ratio of such a token is 1.

    Source: the GRPO trainer of TRL 1.16, which weighs the surrogate so; here the whole loss of a token is weighed.
    """
    known = ~sampled.isnan()
    difference = torch.where(known, old - sampled, torch.zeros_like(old))
    if correction.of_sequences:
        answered = batch.lengths > 0
        ratio, place = batch.row_sum(difference).exp()[answered], answered.cumsum(0) - 1
    else:
        ratio, place = difference.exp(), None
    low = -torch.inf if correction.low is None else correction.low
    high = torch.inf if correction.high is None else correction.high
    beyond = (ratio < low) | (ratio > high)
    weights = ratio.masked_fill(beyond, 0.0) if correction.masks else ratio.clamp(low, high)
    of_tokens = weights if place is None else weights[place[batch.row]]
    return Weighed(of_tokens, ratio, beyond, difference[known].abs())


def measures(weighed: Weighed) -> dict[str, Tensor]:
    """Of a batch of rollouts, (sum, count) by name; `largest` is of this batch, and averaged over batches in a log."""
    one = weighed.ratio.new_ones(())

    def mean(values: Tensor) -> Tensor:
        return torch.stack([values.float().sum(), one * len(values)])

    if not len(weighed.ratio):
        return {}
    return {
        "importance_ratio": mean(weighed.ratio),
        "importance_ratio_largest": torch.stack([weighed.ratio.max(), one]),
        "importance_beyond": mean(weighed.beyond),
        "engine_logprob_difference": mean(weighed.difference),
    }
