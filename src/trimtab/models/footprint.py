"""Memory that a model needs, estimated from its config: weights, and activations kept for the backward.

The model's own forward runs on PyTorch's fake tensors, and what autograd saves is counted: this holds for any
architecture, with adapters and gradient checkpointing.
"""

import copy
import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from trimtab.common.errors import UserError
from trimtab.models import kept_layers
from trimtab.models.adapters import targets
from trimtab.models.classifier import head_parts, read_path, twice_differentiable
from trimtab.models.forward import backbone, input_embeddings
from trimtab.models.layer_lora import within
from trimtab.models.loading import DTYPES
from trimtab.models.quantised import packed_away
from trimtab.models.scope import Scope, freeze_others, resolve
from trimtab.models.student import find_layers
from trimtab.objectives.attribution import integrated_gradients, views

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
    outputs: int = 0
    """numbers that a classifier gives for a text; 0 for a language model"""
    maps: int = 0
    """gradients at the embeddings that are differentiated again, for attribution maps"""
    points: int = 1
    """of the path of integrated gradients, on which a classifier is read at once"""


@dataclass(frozen=True)
class Weight:
    """The size of one weight."""

    shape: tuple[int, ...]
    element_size: int
    """bytes of a number"""
    trained: bool

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


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
    groups: tuple[tuple[Weight, ...], ...] = ()
    """what FSDP2 gathers at once: the weights outside of layers first, then those of each layer"""
    packed: bool = False
    """whether it is quantised"""
    tied: bool = False
    """whether the head is the embedding"""


def cut_config(config: Any, layers: list[int]) -> Any:
    """The config of a model with these layers of another."""
    made = copy.deepcopy(config)
    kept_layers.cut(made.get_text_config(), layers)
    return made


def num_weights(config: Any, *, trust_remote_code: bool = False) -> int:
    """Parameters of the causal language model that a config describes."""
    return sum(p.numel() for p in _without_weights(config, "float32", trust_remote_code).parameters())


def frozen_bytes(
    config: Any, dtype: str, device: str = "cpu", *, trust_remote_code: bool = False, outputs: int = 0
) -> int:
    """Bytes of the weights of a frozen model, quantised if its config says so; with `outputs` of a classifier."""
    made = _without_weights(config, dtype, trust_remote_code, outputs)
    return sum(p.numel() * p.element_size() for p in made.parameters()) - packed_away(made, device)


def frozen_groups(
    config: Any, dtype: str, *, trust_remote_code: bool = False
) -> tuple[int, tuple[tuple[Weight, ...], ...]]:
    """Of a frozen model whose layers are split: bytes of what stays whole, and the weights of each layer."""
    made = _without_weights(config, dtype, trust_remote_code)
    layers = find_layers(made, made.config.get_text_config(decoder=True).num_hidden_layers)[1]
    found = tuple(
        tuple(Weight(tuple(p.shape), p.element_size(), False) for p in layer.parameters()) for layer in layers
    )
    split = sum(weight.numel * weight.element_size for layer in found for weight in layer)
    return sum(p.numel() * p.element_size() for p in made.parameters()) - split, found


def _without_weights(config: Any, dtype: str, trust_remote_code: bool, outputs: int = 0) -> Any:
    kind: Any = AutoModelForCausalLM
    if outputs:
        config, kind = copy.deepcopy(config), AutoModelForSequenceClassification
        config.num_labels = outputs
        config.pad_token_id = config.pad_token_id or 0  # decoders take no batch without one
    with torch.device("meta"):
        return kind.from_config(config, dtype=DTYPES[dtype], trust_remote_code=trust_remote_code)


def activations_of_maps(
    config: Any, dtype: str, shape: TrainedShape, rows: int, length: int, device: str = "cpu", *,
    trust_remote_code: bool = False,
) -> int:  # fmt: skip
    """Bytes that the forward of a frozen model keeps for gradients at its embeddings."""
    model = _without_weights(config, dtype, trust_remote_code, shape.outputs).eval().requires_grad_(False)
    once = replace(shape, lora=None, checkpointing=False)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _without_memory(model, _fake(device))
        return _counted(model, model, once, rows, length, dtype if dtype in HALVES else None, _fake(device))


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
    model = _without_weights(config, dtype, trust_remote_code, shape.outputs).train()
    if shape.maps:
        twice_differentiable(model)
    packed = packed_away(model, device)
    with torch.device("meta"):
        head = None if shape.outputs else model.get_output_embeddings()
        tied = getattr(head, "weight", None) is model.get_input_embeddings().weight
        layer = find_layers(model, config.get_text_config().num_hidden_layers)[1][0] if shape.identity_layer else None
        if layer is not None:
            model.requires_grad_(False)
            layer.requires_grad_(True)
        scope = None if shape.scope is None else resolve(model, shape.scope)
        if scope is not None and shape.lora is None:
            freeze_others(model, scope)
        policy = _with_lora(model, shape, layer, scope) if shape.lora is not None else model
    dropped = 0 if not shape.scalar_head or tied or head is None else head.weight.numel()
    heads = [one.weight for one in (head,) if one is not None and not shape.scalar_head]
    trained_head = sum(weight.numel() for weight in heads if weight.requires_grad)
    with FakeTensorMode(allow_non_fake_inputs=True):
        _without_memory(policy, _fake(device))
        if shape.checkpointing:
            model.gradient_checkpointing_enable()
            if shape.lora is not None:
                model.enable_input_require_grads()
        mixed = shape.mixed or (dtype if dtype in HALVES else None)
        activations = _counted(model, policy, shape, rows, length, mixed, _fake(device))
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
        groups=_groups(model, policy),
        packed=packed > 0,
        tied=tied,
    )


def _groups(model: Any, policy: nn.Module) -> tuple[tuple[Weight, ...], ...]:
    """The weights outside of layers, then those of each layer: of what the model's class does not want split."""
    kinds = set(getattr(model, "_no_split_modules", None) or ())
    seen: set[int] = set()

    def weights(module: nn.Module) -> tuple[Weight, ...]:
        new = {id(one): one for one in module.parameters() if id(one) not in seen}
        seen.update(new)
        return tuple(Weight(tuple(one.shape), one.element_size(), one.requires_grad) for one in new.values())

    layers = [weights(module) for module in policy.modules() if type(module).__name__ in kinds]
    return (weights(policy), *filter(None, layers))


def _with_lora(model: Any, shape: TrainedShape, only: nn.Module | None, scope: Scope | None) -> Any:
    from peft import LoraConfig, get_peft_model

    settings = {**shape.lora, "init_lora_weights": True}  # how they are drawn changes no size
    if only is not None:
        settings = within(model, settings, only)
    if scope is not None:
        settings |= targets(scope)
    if shape.outputs:
        settings["modules_to_save"] = [*(settings.get("modules_to_save") or ()), *head_parts(model)]
    kind = "SEQ_CLS" if shape.outputs else "CAUSAL_LM"
    return get_peft_model(model, LoraConfig(task_type=kind, **settings))


def _fake(device: str) -> str:
    """The device on which a model without memory runs; autograd knows no device that this torch was not built for."""
    return device if device == "cpu" or torch.get_device_module(device).is_available() else "cpu"


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


def _counted(
    model: Any, policy: nn.Module, shape: TrainedShape, rows: int, length: int, mixed: str | None, device: str
) -> int:
    """See `_saved`.

    Raises:
        NotCounted: if the model does not run so.
    """
    try:
        return _saved(model, policy, shape, rows, length, mixed, device)
    except Exception as error:  # of the model's own class
        reason = " ".join(str(error).split())[:200]
        raise NotCounted(f"{type(model).__name__} does not run without memory: {reason}") from error


def _saved(
    model: Any, policy: nn.Module, shape: TrainedShape, rows: int, length: int, mixed: str | None, device: str
) -> int:
    """Bytes that autograd keeps of one forward up to the last hidden states, or to a classifier's answer, besides the
    weights; and of the gradients for maps, where the model is trained."""
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
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        again = any(parameter.requires_grad for parameter in policy.parameters())
        left = _classified(policy, batch, shape, again) if shape.outputs else _read(model, batch, shape.maps, again)
        del left
    return sum(storage.nbytes() for storage in kept.values())


def _classified(policy: nn.Module, batch: dict[str, torch.Tensor], shape: TrainedShape, again: bool) -> list[Any]:
    """A classifier's answers on the path to its embeddings, with its attributions; differentiable `again`."""
    path = read_path(policy, batch, shape.points if shape.maps else 0, constant=not again)
    kind = torch.float32 if shape.outputs == 1 else torch.long
    labels = torch.zeros(len(batch["input_ids"]), dtype=kind, device=path.logits.device)
    every = views(path.logits, labels) if shape.maps else ()
    return [path, [integrated_gradients(view, path, create_graph=again) for view in every]]


def _read(model: Any, batch: dict[str, torch.Tensor], maps: int, again: bool) -> list[Any]:
    """Hidden states of a language model, with as many gradients of them at the embeddings; differentiable `again`."""
    with input_embeddings(model, maps > 0) as embedded:
        states = backbone(model)(**batch, use_cache=False).last_hidden_state
    wanted = [
        torch.autograd.grad(states.float().square().sum(), embedded, create_graph=again, retain_graph=True)
        for _ in range(maps)
    ]
    return [states, wanted]
