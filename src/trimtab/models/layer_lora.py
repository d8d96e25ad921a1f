"""LoRA in a single layer of a model; all others are frozen and have no adapters."""

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from trimtab.common.errors import UserError
from trimtab.models.probing import probe_logits, reaches

NAMES = ("target_modules", "target_parameters", "modules_to_save")
"""settings of PEFT that name modules or parameters"""
ELSEWHERE = ("layers_to_transform", "layers_pattern", "layer_replication", "trainable_token_indices")
"""settings of PEFT that select layers"""


class LayerLoraError(UserError):
    """Settings under which something other than the layer would be trained, or nothing."""


def within(model: nn.Module, settings: dict[str, Any], layer: nn.Module) -> dict[str, Any]:
    """The settings, with full names of the modules and parameters of `layer` that they match.

    Args:
        settings: arguments of PEFT's LoraConfig; without targets, all linear layers: PEFT's own choice, such as q_proj
            and v_proj, stands before weights that are zero, where nothing is learnt.

    Raises:
        LayerLoraError: if they reach other layers, or match nothing in this one.
    """
    for name in ELSEWHERE:
        if settings.get(name) is not None:
            raise LayerLoraError(f"{name} has no effect: only the identity layer gets adapters; leave it out")
    if settings.get("bias", "none") == "all":
        raise LayerLoraError("bias=all would train biases of all layers; choose none or lora_only")
    inside = set(layer.modules())
    modules = {name: module for name, module in model.named_modules() if module in inside and name}
    path = min(modules, key=len)
    parameters = [f"{path}.{name}" for name, _ in layer.named_parameters()]
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear | Conv1D)]
    found = dict(settings)
    given = dict(settings)
    if not given.get("target_modules") and not given.get("target_parameters"):
        given["target_modules"] = "all-linear"
    for name in NAMES:
        if not given.get(name):
            continue
        known = parameters if name == "target_parameters" else list(modules)
        chosen = linear if given[name] == "all-linear" else [one for one in known if _matches(given[name], one)]
        if not chosen:
            raise LayerLoraError(
                f"{name}={settings.get(name)} matches nothing in the identity layer; it has "
                f"{', '.join(one.removeprefix(path + '.') for one in (parameters if 'param' in name else linear))}"
            )
        found[name] = chosen
    return found


@contextmanager
def as_named(model: Any) -> Iterator[None]:
    """Within, PEFT takes full names as they are: otherwise it reads `...0.mlp.gate_proj` of a dense layer
    (deepseek_v3, glm4_moe) as a name of older checkpoints, and puts adapters on the experts of all layers instead."""
    from peft.utils import transformers_weight_conversion

    known = getattr(transformers_weight_conversion, "_MODEL_TO_CONVERSION_PATTERN", {})
    kind = model.config.model_type
    kept = known.pop(kind, None)
    try:
        yield
    finally:
        if kept is not None:
            known[kind] = kept


def _matches(given: str | Collection[str], name: str) -> bool:
    """As PEFT reads names: a pattern, or ends of them."""
    if isinstance(given, str):
        return re.fullmatch(given, name) is not None
    return any(name == one or name.endswith(f".{one}") for one in given)


def check_learns(policy: Any, writers: Iterable[str]) -> None:
    """Check that adapters get a gradient: those before weights that are all zero would never change.

    Args:
        writers: names of the weights of the layer that are zero.

    Raises:
        LayerLoraError: if nothing is learnt.
    """
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        learns = reaches([probe_logits(policy)], trained)
    if not learns:
        raise LayerLoraError(
            f"with adapters only in these places nothing would be learned: {', '.join(writers)} of the identity layer "
            "are zero; add one of them to target_modules, or use all-linear, and leave init_lora_weights as it is"
        )
