"""Models whose gradient has a gradient, as attribution maps in a loss need."""

from typing import Any

import torch
from torch import Tensor

from trimtab.models.classifier import twice_differentiable
from trimtab.models.forward import UnsupportedModel, backbone, input_embeddings, resolve_head
from trimtab.models.masters import inner
from trimtab.models.probing import eval_mode, probe_ids

APART = {torch.float32: 0.02, torch.float64: 0.02}
"""largest asymmetry by rounding; of a part without a derivative it is of the order of 1"""


def differentiable_twice(model: Any) -> None:
    """Let a causal language model compute its attention in plain operations, and check that its gradient at the
    embeddings has a gradient.

    The second derivative of a number is a symmetric matrix; an operation whose backward is not differentiated breaks
    the symmetry, or raises an error.

    Args:
        model: with or without adapters.

    Raises:
        UnsupportedModel: naming the reason.
    """
    plain = inner(model)
    twice_differentiable(plain)
    name = f"{type(plain).__name__} ({plain.config.get_text_config().model_type})"
    try:
        apart = _asymmetry(plain)
    except RuntimeError as error:  # of an operation without a second derivative
        reason = " ".join(str(error).split())[:200]
        raise UnsupportedModel(f"{name} has no second derivative, which attribution maps need: {reason}") from error
    if not apart <= APART.get(plain.dtype, 0.3):
        raise UnsupportedModel(
            f"{name}: its second derivative, which attribution maps need, is wrong: a part of it is taken as constant"
        )


def _asymmetry(model: Any) -> float:
    """|v H w - w H v| over the size of H v and H w, for two random directions; H is the second derivative of the
    log-probability of a few tokens at their embeddings."""
    ids = probe_ids(model)
    with eval_mode(model), torch.enable_grad():
        with input_embeddings(model) as found:
            states = backbone(model)(input_ids=ids, use_cache=False).last_hidden_state
        logits = resolve_head(model)(states[:, :-1]).float()
        value = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).sum()
        (gradient,) = torch.autograd.grad(value, found[0], create_graph=True)
        generator = torch.Generator().manual_seed(0)
        v, w = (torch.randn(gradient.shape, generator=generator).to(gradient) for _ in range(2))
        along_v, along_w = (_times(gradient, one, found[0]) for one in (v, w))
    apart = (along_v * w.float()).sum() - (along_w * v.float()).sum()
    return float(apart.abs() / (along_v.norm() + along_w.norm()))


def _times(gradient: Tensor, direction: Tensor, at: Tensor) -> Tensor:
    (found,) = torch.autograd.grad((gradient * direction).sum(), at, retain_graph=True)
    return found.float()
