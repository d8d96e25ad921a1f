"""Master weights: what is trained is kept in float32, whatever dtype the model computes in.

Near 0.1 bfloat16 has steps of 5e-4, so that updates of 1e-5 are always rounded away. Trained weights in half precision
therefore become float32, and the forward rounds them for its products (autocast).
"""

import functools
from contextlib import AbstractContextManager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import nn

HALVES = (torch.bfloat16, torch.float16)
_OWN = "_trimtab_dtype"
"""attribute of a parameter: the dtype that it was loaded in"""
_COMPUTES = "_trimtab_computes"
"""attribute of a model: the dtype of its products; None for that of its weights"""


def train_in_float32(model: Any) -> int:
    """Make the trained weights of a model float32, in place; it still computes in the dtype that they had.

    A model wholly in float16 computes in float32 from then on: without loss scaling, its gradients would vanish.

    Args:
        model: with its adapters and `requires_grad` as in training, before an optimizer is made. A second call changes
            nothing.

    Returns:
        The number of converted parameters.
    """
    trained = [p for p in model.parameters() if p.requires_grad and p.dtype in HALVES]
    if not trained:
        return 0
    dtype = trained[0].dtype
    for parameter in trained:
        setattr(parameter, _OWN, parameter.dtype)
        parameter.data = parameter.data.float()
    if dtype == torch.bfloat16 or any(p.dtype in HALVES for p in model.parameters()):
        _compute_in(inner(model), dtype)
    return sum(parameter.numel() for parameter in trained)


def own_dtype(tensor: torch.Tensor) -> torch.dtype:
    """The dtype that a tensor of a model was loaded in."""
    return getattr(tensor, _OWN, tensor.dtype)


@torch.no_grad()
def back_to_own_dtypes(model: nn.Module) -> bool:
    """Round trained weights to the dtypes that they were loaded in, in place; whether any changed."""
    changed = [p for p in model.parameters() if own_dtype(p) != p.dtype]
    for parameter in changed:
        parameter.data = parameter.data.to(own_dtype(parameter))
    compute_as_stored(model)
    return bool(changed)


def compute_as_stored(model: Any) -> None:
    """Undo the autocast of `train_in_float32`."""
    if getattr(inner(model), _COMPUTES, None) is not None:
        setattr(inner(model), _COMPUTES, None)


def computing(model: Any) -> AbstractContextManager:
    """Autocast if the model has master weights, else no change."""
    dtype = getattr(model, _COMPUTES, None)
    if dtype is None:
        return nullcontext()
    return torch.autocast(next(model.parameters()).device.type, dtype)


def inner(model: Any) -> Any:
    """The model inside an adapter wrapper, whose forward `generate` calls."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _compute_in(model: Any, dtype: torch.dtype) -> None:
    setattr(model, _COMPUTES, dtype)
    if hasattr(model, "_trimtab_uncast"):
        return
    model._trimtab_uncast = model.forward  # a bound method: that of a copy is the copy's

    @functools.wraps(type(model).forward)  # generate() validates its arguments against the signature
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        with computing(self):
            return self._trimtab_uncast(*args, **kwargs)

    model.forward = MethodType(forward, model)
