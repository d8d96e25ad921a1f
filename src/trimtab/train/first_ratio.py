"""At the first update both sides of a policy ratio have the same weights, so it must be 1; an error would stay in every
later ratio."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trimtab.common.errors import UserError
from trimtab.core import Candidates, LabelLogprobs, Plan
from trimtab.models.masters import own_dtype
from trimtab.objectives.policy_gradient import ratios
from trimtab.signals.base import read_signals
from trimtab.signals.initial_policy import read_with

LIMIT = 1e-3
"""largest |r - 1| of a token, in float32"""
ROUNDED = 0.05
"""mean |r - 1| over tokens from which the user is told, in lower precision"""
SIDES = {
    "itself": "the same policy as computed by signals",
    "old": "the policy that generated the completions",
    "reference": "the reference (the initial policy)",
}


class RatioError(UserError):
    """A ratio of equal weights that is not 1; nothing was trained."""


class Apart(NamedTuple):
    """|r - 1| of a ratio."""

    side: str
    """of `SIDES`"""
    largest: float
    mean: float


def measured(
    plan: Plan, policy: nn.Module, inputs: Mapping[str, Tensor], known: Mapping[str, Any], temperature: float,
    at_start: bool,
) -> list[Apart]:  # fmt: skip
    """Ratios at the answer tokens of a micro-batch, of the policy in training to each side with the same weights.

    Args:
        known: signals of the rollouts; "old" and candidates are of the policy that sampled them.
        at_start: the plan's reference is the policy as it is now.
    """
    device = inputs["labels"].device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        trained = read_with(LabelLogprobs(), policy, inputs, {}, temperature, training=True)
    found = {"itself": read_with(LabelLogprobs(), policy, inputs, {}, temperature)}
    if isinstance(old := known.get("old"), Tensor):
        found["old"] = old
    elif plan.objective.ratio == "old" and isinstance(held := known.get("candidates"), Candidates):
        found["old"] = held.logprobs[:, 0]
    if at_start and isinstance(reference := known.get("reference"), Tensor):
        found["reference"] = reference
    elif at_start and plan.objective.ratio == "reference":
        signals = [signal for signal in plan.signals if "reference" in signal.provides]
        reference = read_signals(signals, policy, inputs).get("reference")
        if isinstance(reference, Tensor) and reference.dim() == 1:
            found["reference"] = reference
    if not len(trained):  # not sooner: with sharded weights all processes take part in each forward
        return []
    off = {side: (ratios(trained, other.to(trained)) - 1).abs() for side, other in found.items()}
    return [Apart(side, one.max().item(), one.mean().item()) for side, one in off.items()]


def verdict(apart: Apart, exact: bool, dropout_kept: bool) -> str | None:
    """A note for the user, if any.

    Args:
        exact: both sides are computed in float32.
        dropout_kept: the user asked for it.

    Raises:
        RatioError: if the ratio should be 1 and is not.
    """
    what = (
        f"the ratio of the policy in training to {SIDES[apart.side]} differs from 1 by up to {apart.largest:.2g} "
        f"({apart.mean:.2g} on average over tokens) before the first update, where both have the same weights"
    )
    if dropout_kept:
        return f"{what}: dropout is kept (training.disable_dropout: false)" if apart.mean > LIMIT else None
    if exact and apart.largest >= LIMIT:
        raise RatioError(
            f"{what}: their forward passes differ in dropout or other training noise, dtype, attention kernel, a stale "
            "engine, or chat template; nothing was trained. training.disable_dropout: false trains regardless"
        )
    if not exact and apart.mean >= ROUNDED:
        return f"{what}: more than by rounding; possible causes are dropout, dtype, kernel, a stale engine or template"
    return None


def is_exact(policy: nn.Module, device: torch.device) -> bool:
    """Whether the policy, without autocast, computes in float32 throughout."""
    coarse = device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return not coarse and all(own_dtype(p) == torch.float32 for p in policy.parameters())
