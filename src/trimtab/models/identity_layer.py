"""An extra decoder layer at the bottom that is the identity until it is trained, and can be bypassed.

A copy of layer 0 whose attention and MLP write zeros stands before layer 0. Through it the network is the
aligned model, around it the original one, bit for bit; all other weights are shared.

Source: CLM (arXiv:2503.04346) and InRa (arXiv:2506.12704).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.common.errors import UserError
from trimtab.models.forward import same_logits
from trimtab.models.layer_outputs import Writers, output_writers
from trimtab.models.probing import probe_logits
from trimtab.models.student import copy_layers, find_layers

MARK = "trimtab_identity_layer"
"""key in the config of a model whose first layer is an identity layer"""


class IdentityLayerError(UserError):
    """A model that cannot be given an identity layer, or that has none where one is needed."""


def insert_identity_layer(model: PreTrainedModel) -> PreTrainedModel:
    """A new model with an identity layer before the first; ordinary weights, an ordinary config.

    The weights that write the output of the layer's blocks are found by running them, not by their names (see
    `layer_outputs`); the config's settings of single layers are cut alike (see `kept_layers`).

    Where a block's output passes a norm (gemma2, gemma3, olmo2) the norm's slope at zero is 1/sqrt(eps), so the first
    updates need a small learning rate or a warm-up.

    Returns:
        A model with the logits of a copy of `model` and `config.trimtab_identity_layer` set, whose saved folder loads
        with `AutoModelForCausalLM`.

    Raises:
        IdentityLayerError: if `model` has such a layer already, its layers are not found, or the new layer would not be
            the identity.
    """
    name = f"{type(model).__name__} ({model.config.model_type})"
    if getattr(model.config, MARK, False):
        raise IdentityLayerError(f"{name} has an identity layer already; a second one is not supported")
    try:
        number = model.config.get_text_config().num_hidden_layers
        expanded = copy_layers(model, [0, *range(number)])
        _, layers = find_layers(expanded, number + 1)
    except ValueError as error:
        raise IdentityLayerError(str(error)) from error
    try:
        _few_logits(expanded)
    except Exception as error:  # of the model's own class
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise IdentityLayerError(
            f"{name}: the model with one more layer does not run ({reason}), because its layers differ by position"
        ) from error
    outputs = output_projections(expanded, layers[0])
    for writer in outputs.values():
        for weight in [writer] if isinstance(writer, nn.Parameter) else writer.parameters():
            nn.init.zeros_(weight)
    for name, scale in layers[0].named_buffers(recurse=False):  # gemma4 multiplies all that a layer gives
        if scale.numel() == 1 and "scal" in name:
            nn.init.ones_(scale)
    unchanged: list[bool] = []

    def compare(layer: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        unchanged.append(torch.equal(_given(args, kwargs), output if isinstance(output, Tensor) else output[0]))

    with layers[0].register_forward_hook(compare, with_kwargs=True):
        logits = _few_logits(expanded)
    if not all(unchanged) or not same_logits(logits, _few_logits(model)):
        raise IdentityLayerError(
            f"{name}: a copy of the first layer ({type(layers[0]).__name__}) is not the identity with the weights of "
            f"{', '.join(outputs)} at zero, which are what writes the output of its blocks"
        )
    setattr(expanded.config, MARK, True)
    return expanded


def output_projections(model: PreTrainedModel, layer: nn.Module) -> Writers:
    """By name, the weights of `layer` that write the output of each of its blocks; see `layer_outputs`."""
    found = output_writers(layer, lambda: _few_logits(model))
    if not found:
        children = ", ".join(f"{n} ({type(m).__name__})" for n, m in layer.named_children())
        raise IdentityLayerError(
            f"{type(model).__name__} ({model.config.model_type}): looked for Linear or Conv1D modules, and weights of "
            f"experts, that write what the blocks of {type(layer).__name__} give; found: {children}"
        )
    return found


def identity_layer(model: nn.Module) -> nn.Module:
    """The identity layer of `model`, which PEFT, DDP or the like may have wrapped.

    Raises:
        IdentityLayerError: if it has none.
    """
    inner = unwrapped(model)
    if not getattr(inner.config, MARK, False):
        raise IdentityLayerError(
            f"{type(inner).__name__} ({inner.config.model_type}) has no identity layer; "
            "make one with trimtab.models.identity_layer.insert_identity_layer"
        )
    return find_layers(inner, inner.config.get_text_config().num_hidden_layers)[1][0]


def unwrapped(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside wrappers such as PEFT's and DDP's."""
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise IdentityLayerError(f"{type(model).__name__} holds no transformers model")


def train_only_identity_layer(model: nn.Module) -> None:
    """Freeze all weights but those of the identity layer, its norms included."""
    layer = identity_layer(model)
    model.requires_grad_(False)
    layer.requires_grad_(True)


@contextmanager
def bypass(model: nn.Module, rows: Tensor | None = None) -> Iterator[None]:
    """Within, the identity layer returns its input: the network is the original one.

    The layer itself still runs, so caches keep their form; no gradient reaches it from the bypassed rows.

    Args:
        model: with an identity layer; may be wrapped.
        rows: [B] bool, the rows of the batch that bypass the layer; all if not given.

    Raises:
        IdentityLayerError: if `model` has no such layer.
        ValueError: when the model is called with another number of rows.
    """

    def around(given: Tensor, computed: Tensor) -> Tensor:
        if rows is None:
            return given
        if rows.shape != given.shape[:1]:
            raise ValueError(f"bypass: rows has the shape {list(rows.shape)}, the batch has {given.size(0)} rows")
        return torch.where(_for_each(rows, given), given, computed)

    with _instead(model, around):
        yield


@contextmanager
def blend(model: nn.Module, strength: Callable[[], Tensor]) -> Iterator[None]:
    """Within, the identity layer returns h = (1 - s) e + s layer(e), e being its input.

    At s = 0 and s = 1 bit for bit what the two paths give; elsewhere no mixture of their logits.

    Args:
        model: with an identity layer; may be wrapped.
        strength: called at each forward for s, [B].
    """

    def between(given: Tensor, computed: Tensor) -> Tensor:
        s = _for_each(strength().to(given), given)
        mixed = torch.where(s == 1, computed, (1 - s) * given + s * computed)
        return torch.where(s == 0, given, mixed)

    with _instead(model, between):
        yield


@contextmanager
def _instead(model: nn.Module, replace: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Within, the identity layer returns replace(its input, its output)."""

    def change(layer: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        given = _given(args, kwargs)
        if isinstance(output, Tensor):
            return replace(given, output)
        return (replace(given, output[0]), *output[1:])

    with identity_layer(model).register_forward_hook(change, with_kwargs=True):
        yield


def _for_each(row: Tensor, states: Tensor) -> Tensor:
    """[B] for hidden states [B, T, D], or [B, T, streams, D] as of hyper-connections."""
    return row.to(states.device).view(-1, *[1] * (states.dim() - 1))


def _given(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The hidden states [B, T, D], or [B, T, streams, D], that a decoder layer was called with."""
    return args[0] if args else kwargs["hidden_states"]


@torch.no_grad()
def _few_logits(model: PreTrainedModel) -> Tensor:
    return probe_logits(model, rows=2, length=5)
