"""LoRA through PEFT: adding adapters to a model, and checking their settings."""

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, set_seed

from trimtab.common.errors import first_line, nearest
from trimtab.models import kept_layers
from trimtab.models.adapter_merging import AdapterError, check_merge
from trimtab.models.folder import shown
from trimtab.models.layer_lora import LayerLoraError, as_named, check_learns, within
from trimtab.models.probing import probe_logits
from trimtab.models.scalar_head import head_name
from trimtab.models.scope import Scope

NEED_DATA = ("eva", "corda", "lora_ga")
"""initialisations that PEFT computes from rows"""

FAILURES = (TypeError, ValueError, RuntimeError, ImportError, AttributeError, KeyError)
"""errors that PEFT raises for settings that do not fit"""


def add_lora(
    model: PreTrainedModel, settings: dict[str, Any], seed: int, *, only: nn.Module | None = None,
    head: Sequence[str] = (), scope: Scope | None = None,
) -> Any:  # fmt: skip
    """The model with newly initialised adapters; its own weights are frozen.

    Args:
        model: with `add_objective_forward` or `add_score_forward` already called; a scalar head is trained as a whole.
        settings: arguments of PEFT's LoraConfig.
        only: the one layer that gets adapters; None: all.
        head: of a classifier, the parts that are trained and stored as a whole.
        scope: the parameters in whose modules adapters are put; the settings then name no modules.

    Raises:
        AdapterError: in PEFT's words.
    """
    from peft import LoraConfig, get_peft_model

    check_settings(settings)
    modules = settings.get("target_modules") or ()
    set_seed(seed)
    task = "CAUSAL_LM" if model.get_output_embeddings() is not None else "TOKEN_CLS"  # PEFT trains that head whole
    if scope is not None:
        settings = {**settings, **targets(scope)}
        modules = settings["target_modules"]
    if str(modules).lower() == "all-linear":
        settings = _without(settings, [*_refused(model), *([head_name(model)] if task == "TOKEN_CLS" else [])])
    if head:
        task, kept = "SEQ_CLS", settings.get("modules_to_save") or []
        inside = [name for name, _ in model.named_modules() if set(name.split(".")) & set(head)]
        settings = {**_without(settings, inside), "modules_to_save": [*dict.fromkeys([*kept, *head])]}
    if only is not None:
        try:
            settings = within(model, settings, only)
        except LayerLoraError as error:
            raise AdapterError(f"models.lora.{error}") from error
    try:
        layers = num_layers(model)
        with as_named(model) if only is not None or scope is not None else nullcontext():
            policy = get_peft_model(model, LoraConfig(task_type=task, **settings))
        describe_repeated(policy, layers)
    except FAILURES as error:
        raise AdapterError(f"models.lora: {first_line(error)}") from error
    policy.train(model.training)  # a wrapper begins in the mode of training, whatever it wraps
    try:
        with torch.no_grad():
            probe_logits(policy)
    except FAILURES as error:  # of layers that are more than linear ones, or stored transposed
        raise AdapterError(
            f"models.lora: {type(model).__name__} cannot run with adapters in {modules or 'these layers'} "
            f"({first_line(error)}); name other models.lora.target_modules, or another init_lora_weights"
        ) from error
    check_merge(policy)
    if only is not None:
        _check_only(policy, only)
    return policy


def targets(scope: Scope) -> dict[str, Any]:
    """PEFT's settings that put adapters into the modules of a scope, and into experts that are no modules.

    Raises:
        AdapterError: if none of its parameters can have adapters.
    """
    if not scope.modules and not scope.tables:
        raise AdapterError(
            f"scope with models.lora: adapters need weights of linear layers, and it names {shown([*scope.names])}"
        )
    return {"target_modules": [*scope.modules], **({"target_parameters": [*scope.tables]} if scope.tables else {})}


def _check_only(policy: Any, layer: nn.Module) -> None:
    """Check that adapters in one layer train nothing else, and do train something."""
    inside = {id(parameter) for parameter in layer.parameters()}
    outside = [n for n, p in policy.named_parameters() if p.requires_grad and id(p) not in inside]
    if outside:
        raise AdapterError(f"models.lora: {shown(outside)} would be trained too, but only the identity layer may be")
    tables = [(name, p) for name, p in layer.named_parameters() if p.dim() > 1 and ".lora_" not in name]
    zeros = [name.replace(".base_layer", "").removesuffix(".weight") for name, p in tables if not p.count_nonzero()]
    try:
        check_learns(policy, zeros)
    except LayerLoraError as error:
        raise AdapterError(f"models.lora: {error}") from error


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise an AdapterError for the first setting that is wrong whatever the model."""
    from peft import LoraConfig

    check_names(settings, {field.name for field in fields(LoraConfig) if field.init})
    modules = settings.get("target_modules") or ()
    if isinstance(modules, list) and "lm_head" in modules:
        raise AdapterError("models.lora.target_modules has lm_head, which TRL's trainer does not support; leave it out")
    if (init := settings.get("init_lora_weights")) in NEED_DATA:
        raise AdapterError(
            f"models.lora.init_lora_weights={init} is computed from rows before training, which is not supported; "
            "choose another, for example pissa or olora"
        )
    for key, (least, most) in RANGES.items():
        value = settings.get(key, least)
        if not isinstance(value, (int, float)) or not least <= value <= most:  # nan lies nowhere
            upto = "" if most == math.inf else f" to {most:g}"
            raise AdapterError(f"models.lora.{key} is {value!r}; give a number from {least:g}{upto}")
    if (bias := settings.get("bias", "none")) not in BIASES:
        raise AdapterError(f"models.lora.bias is {bias!r}; it must be {', '.join(BIASES[:-1])} or {BIASES[-1]}")
    try:
        LoraConfig(**settings)
    except FAILURES as error:
        raise AdapterError(f"models.lora: {first_line(error)}") from error


RANGES = {"r": (1, math.inf), "lora_alpha": (0, math.inf), "lora_dropout": (0, 1)}
"""numbers that PEFT looks at when the model is there, or not at all"""
BIASES = ("none", "all", "lora_only")
"""which PEFT looks at when the model is there"""


def num_layers(model: Any) -> int | None:
    return getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)


def describe_repeated(policy: Any, layers: int | None) -> None:
    """Where PEFT has repeated layers, repeat the config's settings of single layers too; there were `layers` before."""
    for config in policy.peft_config.values():
        if repeated := getattr(config, "layer_replication", None):
            text = policy.get_base_model().config.get_text_config(decoder=True)
            text.num_hidden_layers = layers  # PEFT has counted them, and changed nothing else
            kept_layers.cut(text, [i for start, end in repeated for i in range(start, end)])


def _refused(model: PreTrainedModel) -> list[str]:
    """Linear layers, by the ends of their names, that PEFT refuses in this class (Mamba's)."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import _check_lora_target_modules_mamba as check

    found = set()
    for end in {name.rpartition(".")[2] for name, part in model.named_modules() if isinstance(part, nn.Linear)}:
        try:
            check(LoraConfig(), model, end)
        except ValueError:
            found.add(end)
    return sorted(found)


def _without(settings: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The settings with these modules excluded, by the ends of their names."""
    if not names:
        return settings
    given = settings.get("exclude_modules") or []
    if isinstance(given, str):
        return {**settings, "exclude_modules": f"({given})|(.*\\.)?({'|'.join(names)})"}
    return {**settings, "exclude_modules": [*given, *names]}


ALIASES = {
    "rank": "r", "lora_r": "r", "dim": "r", "alpha": "lora_alpha", "dropout": "lora_dropout",
    "targets": "target_modules", "modules": "target_modules", "layers": "layers_to_transform",
    "init": "init_lora_weights", "rslora": "use_rslora", "dora": "use_dora",
}  # fmt: skip
"""what others call settings of PEFT"""


def check_names(settings: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise an AdapterError for the first setting that LoraConfig lacks, with the nearest one."""
    for key in settings:
        if key in known:
            continue
        name = ALIASES.get(str(key).lower(), str(key))
        hint = nearest(name, known, f"its keys: {', '.join(sorted(known))}")
        raise AdapterError(f"models.lora: PEFT's LoraConfig has no {key!r}; {hint}")
