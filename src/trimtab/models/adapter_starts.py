"""Whether a policy with its adapter disabled is the initial policy."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


@torch.no_grad()
def logits(model: Any) -> Tensor:
    """As `raw_logits`, detached."""
    return raw_logits(model).detach().clone()


def raw_logits(model: Any) -> Tensor:
    """[1, T, V] of a few tokens, in eval mode; of a model with a scalar head its scores."""
    config = model.config.get_text_config(decoder=True)
    device = next(model.parameters()).device
    ids = (torch.arange(6, device=device)[None] * 37 + 5) % config.vocab_size
    was_training = model.training
    model.eval()
    try:
        return model(input_ids=ids, use_cache=False).logits
    finally:
        model.train(was_training)


def start_logits(model: PreTrainedModel) -> Tensor:
    """What `off_is_start` compares with, of the model before it gets adapters."""
    return logits(model)


def off_is_start(policy: Any, start: Tensor) -> bool:
    """Whether the policy without its adapter stays the initial policy, whatever training does.

    Found by trying: everything that is trained is moved, the adapter is switched off, and the logits must be those of
    the start. PiSSA and OLoRA take a part out of the model's own weights; `bias` trains the model's own.

    Args:
        start: of `start_logits`.
    """
    with _moved(policy), policy.disable_adapter():
        return _same(logits(policy), start)


def base_is_whole(policy: Any, start: Tensor) -> bool:
    """Whether a newly added adapter has left the model's own weights unchanged."""
    with policy.disable_adapter():
        return _same(logits(policy), start)


def _same(found: Tensor, start: Tensor) -> bool:
    spread = start.float().std().clamp(min=1e-6).item()
    return torch.allclose(found.float(), start.float(), rtol=1e-4, atol=1e-4 * spread)


@contextmanager
def _moved(policy: nn.Module) -> Iterator[None]:
    """Everything that is trained is another for a moment."""
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    kept = [parameter.detach().clone() for parameter in trained]
    try:
        with torch.no_grad():
            for parameter in trained:
                parameter.add_(1.0)
        yield
    finally:
        with torch.no_grad():
            for parameter, before in zip(trained, kept):
                parameter.copy_(before)
