"""Teach a causal language model to compute an objective inside its own forward.

Inside, because there the hooks of DDP and FSDP2 have gathered the parameters, the autocast context is
the right one, and the gradient of a tied head reaches the embedding once.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from trimtab.core import Head, Objective, Reduction, TokenBatch, fused_loss, predicting, weights
from trimtab.core.batch import finite


class UnsupportedModel(ValueError):
    """A model whose logits the engine cannot rebuild from its hidden states and its head."""


class ObjectiveCall:
    """What `model(..., objective_call=...)` computes instead of logits.

    A plain class and no dataclass: the mixed precision of FSDP2 looks into dataclasses and would cast
    the total and the signals to bfloat16.
    """

    def __init__(
        self,
        objective: Objective,
        labels: Tensor,
        signals: Mapping[str, Any],
        row_id: Tensor,
        reduction: Reduction = "token_mean",
        total: Tensor | float | None = None,
        *,
        seed: int = 0,
        step: int = 0,
        temperature: float = 1.0,
    ):
        self.objective, self.total, self.seed, self.step = objective, total, seed, step
        self.temperature = temperature  # of the policy, whose logits are divided by it
        self.reduction: Reduction = reduction
        self.labels = labels  # [B, T] with -100 at prompt and padding
        self.signals = signals
        self.row_id = row_id  # [B]


@dataclass
class ObjectiveOutput(ModelOutput):
    """Scalar loss, metrics as (sum, count), and the unreduced values, [N] per token or [R] per sequence."""

    loss: Tensor | None = None
    metrics: dict | None = None
    unreduced: Tensor | None = None


def _scale_and_softcap(config: Any) -> tuple[float, float | None]:
    """What the model does to its head's output, from the names that transformers' models use for it."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name)), getattr(config, "final_logit_softcapping", None)
    scaling = getattr(config, "logits_scaling", None)
    if scaling is not None:
        scale = float(scaling) if config.model_type == "hyperclovax" else 1.0 / float(scaling)
        return scale, getattr(config, "final_logit_softcapping", None)
    return 1.0, getattr(config, "final_logit_softcapping", None)


def resolve_head(model: PreTrainedModel) -> Head:
    """The head of `model` as it is now: looked up at each call, since PEFT and FSDP exchange modules."""
    module = model.get_output_embeddings()
    if module is None:
        raise UnsupportedModel(f"{type(model).__name__} has no output head")
    config = model.config.get_text_config()
    scale, softcap = _scale_and_softcap(config)
    return Head(module, config.vocab_size, scale, softcap, masks=getattr(model, "_trimtab_masks_logits", False))


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Hold backbone + head against the model's own logits on a few tokens.

    Raises:
        UnsupportedModel: if they differ: the model does something to its logits that is not known here, and
            training on wrong logits would go unnoticed.
    """
    device = next(model.parameters()).device
    config = model.config.get_text_config()
    ids = (torch.arange(6, device=device)[None] * 37 + 5) % config.vocab_size
    was_training = model.training
    model.eval()
    try:
        own = model(input_ids=ids, use_cache=False).logits
        hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        model._trimtab_masks_logits = bool(torch.isneginf(own).any())  # type: ignore[assignment]
        rebuilt = resolve_head(model)(hidden)
    finally:
        model.train(was_training)
    if own.isnan().any():
        raise UnsupportedModel(f"{type(model).__name__} ({config.model_type}) gives NaN; its weights are broken")
    if own.shape != rebuilt.shape or not same_logits(rebuilt, own, least_spread=1e-3):
        raise UnsupportedModel(
            f"{type(model).__name__} ({config.model_type}): the output head applied to the last hidden state does not "
            "give the model's own logits; it changes them in a way trimtab does not know"
        )


def same_logits(found: Tensor, wanted: Tensor, least_spread: float = 0.0) -> bool:
    """Whether two tables of logits are the same up to rounding, which goes by the dtype and the spread of `wanted`."""
    close = 1e-3 if wanted.dtype == torch.float32 else 2e-2
    found, wanted = finite(found.float()), finite(wanted.float())
    spread = max(wanted[wanted > -1e4].std().item(), least_spread)
    return torch.allclose(found, wanted, rtol=close, atol=close * spread)


def add_objective_forward(model: PreTrainedModel) -> None:
    """Let `model(..., objective_call=ObjectiveCall(...))` return an `ObjectiveOutput`.

    Call it before PEFT, TRL or accelerate wrap the model. Without the argument the forward is the
    original one. Calling it twice changes nothing.

    Raises:
        UnsupportedModel: see `check_head`.
    """
    if getattr(model, "_trimtab_forward", False):
        return
    check_head(model)
    patched_before = model.__dict__.get("forward")

    @functools.wraps(type(model).forward)  # generate() validates its arguments against the signature
    def forward(self: PreTrainedModel, *args: Any, objective_call: ObjectiveCall | None = None, **kwargs: Any) -> Any:
        if objective_call is None:
            # looked up on `self`: a deepcopy must run its own weights and not those of the original
            original = patched_before or MethodType(type(self).forward, self)
            return original(*args, **kwargs)
        kwargs["use_cache"] = False
        hidden = self.base_model(*args, **kwargs).last_hidden_state
        return compute_objective(objective_call, hidden, resolve_head(self))

    model.forward = MethodType(forward, model)  # type: ignore[method-assign]
    model._trimtab_forward = True  # type: ignore[assignment]


def compute_objective(call: ObjectiveCall, hidden: Tensor, head: Head) -> ObjectiveOutput:
    """The objective on hidden states [B, T, D] of a whole micro-batch."""
    batch = TokenBatch.from_labels(call.labels, call.signals, row_id=call.row_id, seed=call.seed, step=call.step)
    weight = weights(batch, call.reduction, call.total, call.objective.per)
    head = replace(head, temperature=call.temperature)
    fused = fused_loss(call.objective, batch, predicting(hidden, call.labels), head, weight)
    return ObjectiveOutput(loss=fused.loss, metrics=fused.metrics, unreduced=fused.values)  # type: ignore[arg-type]
