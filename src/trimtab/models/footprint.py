"""Memory that a model needs, estimated from its config: weights, and activations kept for the backward.

The model's own forward runs on PyTorch's fake tensors, and what autograd saves is counted: this holds for any
architecture, with adapters and gradient checkpointing.
"""

import copy
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from trimtab.common.errors import UserError
from trimtab.models import kept_layers
from trimtab.models.adapters import targets
from trimtab.models.forward import backbone
from trimtab.models.layer_lora import within
from trimtab.models.loading import DTYPES
from trimtab.models.quantised import packed_away
from trimtab.models.scope import Scope, freeze_others, resolve
from trimtab.models.student import find_layers

HALVES = ("bfloat16", "float16")


class NotCounted(UserError):
    """A model whose activations cannot be estimated from its config."""


@dataclass(frozen=True)
class TrainedShape:
    """Which part of a model is trained, and how."""

    identity_layer: bool = False
    scalar_head: bool = False
    scope: Any = None
    """what `trimtab.models.scope.resolve` reads; None for all"""
    lora: Any = None
    """arguments of PEFT's LoraConfig"""
    checkpointing: bool = False
    mixed: str | None = None
    """the dtype of autocast"""


@dataclass(frozen=True)
class Footprint:
    """The size of a model in training."""

    params: int
    trained: int
    weights: int
    """bytes; trained weights in float32"""
    activations: int
    """bytes that the forward of one micro-batch keeps"""
    head: int
    """parameters of the output head, tied or not, if it is trained"""
    width: int
    """of the hidden states"""
    vocab: int


def cut_config(config: Any, layers: list[int]) -> Any:
    """The config of a model with these layers of another."""
    made = copy.deepcopy(config)
    kept_layers.cut(made.get_text_config(), layers)
    return made


def num_weights(config: Any, *, trust_remote_code: bool = False) -> int:
    """Parameters of the causal language model that a config describes."""
    return sum(p.numel() for p in _without_weights(config, "float32", trust_remote_code).parameters())


def frozen_bytes(config: Any, dtype: str, device: str = "cpu", *, trust_remote_code: bool = False) -> int:
    """Bytes of the weights of a frozen model, quantised if its config says so."""
    made = _without_weights(config, dtype, trust_remote_code)
    return sum(p.numel() * p.element_size() for p in made.parameters()) - packed_away(made, device)


def _without_weights(config: Any, dtype: str, trust_remote_code: bool) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype], trust_remote_code=trust_remote_code)


def kv_bytes(config: Any, dtype: str) -> int:
    """Bytes of the keys and values of one token in all layers."""
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_attention_heads", 1)
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    kept = getattr(text, "num_key_value_heads", None) or heads
    return 2 * text.num_hidden_layers * kept * width * (2 if dtype in HALVES else 4)


def footprint(
    config: Any, dtype: str, shape: TrainedShape, rows: int, length: int, device: str = "cpu", *,
    trust_remote_code: bool = False,
) -> Footprint:  # fmt: skip
    """The footprint of the model that a config describes, trained on micro-batches of `rows` x `length` tokens; `dtype`
    is that of frozen weights."""
    if shape.identity_layer:
        config = cut_config(config, [0, *range(config.get_text_config().num_hidden_layers)])
    model = _without_weights(config, dtype, trust_remote_code).train()
    packed = packed_away(model, device)
    with torch.device("meta"):
        head = model.get_output_embeddings()
        tied = getattr(head, "weight", None) is model.get_input_embeddings().weight
        layer = find_layers(model, config.get_text_config().num_hidden_layers)[1][0] if shape.identity_layer else None
        if layer is not None:
            model.requires_grad_(False)
            layer.requires_grad_(True)
        scope = None if shape.scope is None else resolve(model, shape.scope)
        if scope is not None and shape.lora is None:
            freeze_others(model, scope)
        policy = _with_lora(model, shape, layer, scope) if shape.lora is not None else model
    dropped = 0 if not shape.scalar_head or tied else head.weight.numel()
    heads = [one.weight for one in (head,) if one is not None and not shape.scalar_head]
    trained_head = sum(weight.numel() for weight in heads if weight.requires_grad)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _without_memory(policy, device)
        if shape.checkpointing:
            model.gradient_checkpointing_enable()
            if shape.lora is not None:
                model.enable_input_require_grads()
        mixed = shape.mixed or (dtype if dtype in HALVES else None)
        try:
            activations = _saved(model, policy, rows, length, mixed, device)
        except Exception as error:  # of the model's own class
            reason = " ".join(str(error).split())[:200]
            raise NotCounted(f"{type(model).__name__} does not run without memory: {reason}") from error
    parameters = {id(p): p for p in policy.parameters()}.values()
    trained = sum(p.numel() for p in parameters if p.requires_grad) - dropped
    return Footprint(
        params=sum(p.numel() for p in parameters) - dropped,
        trained=trained,
        weights=sum(p.numel() * p.element_size() for p in parameters) - 4 * dropped - packed,
        activations=activations,
        head=trained_head,
        width=config.get_text_config().hidden_size,
        vocab=config.get_text_config().vocab_size,
    )


def _with_lora(model: Any, shape: TrainedShape, only: nn.Module | None, scope: Scope | None) -> Any:
    from peft import LoraConfig, get_peft_model

    settings = {**shape.lora, "init_lora_weights": True}  # how they are drawn changes no size
    if only is not None:
        settings = within(model, settings, only)
    if scope is not None:
        settings |= targets(scope)
    return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))


def _without_memory(policy: nn.Module, device: str) -> None:
    """Replace a model's meta tensors by fake ones on a device, in the dtypes of training."""
    known: dict[int, torch.Tensor] = {}
    for module in policy.modules():
        for name, one in module._parameters.items():
            if one is None:
                continue
            if id(one) not in known:
                dtype = torch.float32 if one.requires_grad else one.dtype
                empty = torch.empty(one.shape, dtype=dtype, device=device)
                known[id(one)] = nn.Parameter(empty, requires_grad=one.requires_grad)
            module._parameters[name] = known[id(one)]  # type: ignore[assignment]
        for name, one in module._buffers.items():
            if one is not None:
                module._buffers[name] = torch.empty(one.shape, dtype=one.dtype, device=device)


def _saved(model: Any, policy: nn.Module, rows: int, length: int, mixed: str | None, device: str) -> int:
    """Bytes that autograd keeps of one forward up to the last hidden states, besides the weights."""
    own = {t.untyped_storage()._cdata for t in (*policy.parameters(), *policy.buffers())}
    kept: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that no other gets its address
        return tensor

    context = torch.autocast(device, DTYPES[mixed]) if mixed else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), context:
        ids = torch.zeros(rows, length, dtype=torch.long, device=device)
        backbone(model)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())
