"""The policy of a recipe: its method, tokenizer, vocabulary and weights."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trimtab import methods
from trimtab.core import Method, MethodConfig, Requirements
from trimtab.core.requirements import Trained
from trimtab.data import stored
from trimtab.models import loading
from trimtab.models.adapter_saving import remember_initial
from trimtab.models.adapter_starts import base_is_unchanged
from trimtab.models.adapters import add_lora
from trimtab.models.ends import end_tokens
from trimtab.models.forward import add_objective_forward
from trimtab.models.growth import grow_embedding, num_tokens
from trimtab.models.identity_layer import bypass, identity_layer, insert_identity_layer, train_only_identity_layer
from trimtab.models.probing import probe_logits
from trimtab.models.quantised import check_policy
from trimtab.models.scalar_head import add_score_forward, head_name, with_scalar_head
from trimtab.models.scope import Scope, freeze_others, resolve
from trimtab.models.splitting import is_split
from trimtab.models.student import keep_layers, layer_indices
from trimtab.runs import scope_key
from trimtab.runs.folder import RunError
from trimtab.runs.models_key import STORED, Cut, is_teacher
from trimtab.runs.recipe import Recipe, named_models, policy_source
from trimtab.signals.frozen import FrozenModel


@dataclass
class Shared:
    """Models that several stages of one process share."""

    models: dict[Any, PreTrainedModel] = field(default_factory=dict)
    teachers: dict[Any, FrozenModel] = field(default_factory=dict)


def method_of(recipe: Recipe) -> tuple[Method, MethodConfig, Requirements]:
    """The recipe's method, its options, and its requirements."""
    method = methods.load(recipe.method)
    options = method.config.model_validate(recipe.options)
    required = method.requirements(options)
    if recipe.models.reference == STORED:
        required = replace(required, columns=(*required.columns, stored.REFERENCE))
    return method, options, required


def policy_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """The tokenizer of the policy."""
    models = recipe.models
    return loading.load_tokenizer(
        policy_source(recipe), trust_remote_code=models.trust_remote_code, resize=models.resize
    )


def policy_vocab(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> int:
    """Rows of the policy's embedding; with models.resize at least one for each token of its tokenizer."""
    rows = loading.limits(policy_source(recipe), trust_remote_code=recipe.models.trust_remote_code).vocab
    return max(rows, num_tokens(tokenizer)) if recipe.models.resize else rows


def shown(model: str | Cut) -> str:
    """A model's name for signatures."""
    return model if isinstance(model, str) else f"{model.source}, layers {model.layers}"


def load_shared(shared: Shared, name: str, dtype: str, trust: bool, **how: Any) -> PreTrainedModel:
    """A model of a name, dtype and way of loading, whole: one that was split over processes is loaded anew."""
    key = (name, dtype, *sorted(map(str, how.items())))
    if key not in shared.models or is_split(shared.models[key]):
        shared.models[key] = loading.load_model(name, dtype=dtype, trust_remote_code=trust, **how)
    return shared.models[key]


def how_loaded(recipe: Recipe, role: str) -> dict[str, Any]:
    """Arguments of `load_model` for a frozen model that is kept in few bits, or on a device of its own.

    Raises:
        RunError: for a device that this machine does not have.
    """
    device, bits = recipe.models.teacher_device, recipe.models.teacher_bits
    if not is_teacher(role) or (device is None and bits is None):
        return {}
    if device is not None:
        _check_device(device)
    return {"device_map": {"": device or loading.device()}, "bits": bits}


def _check_device(name: str) -> None:
    number = torch.accelerator.device_count()
    kind = torch.accelerator.current_accelerator() if number else None
    there = ["cpu", *(f"{kind}:{i}" for i in range(number) if kind is not None)]
    if name not in there and not (kind is not None and name == str(kind)):
        raise RunError(f"models.teacher_device: there is no {name} on this machine; it has: {', '.join(there)}")


def make_policy(recipe: Recipe, shared: Shared) -> PreTrainedModel:
    """The initial policy, without adapter or identity layer."""
    models = recipe.models
    name = policy_source(recipe)
    if isinstance(models.policy, str):
        model = loading.load_model(
            name,
            dtype=models.dtype,
            trust_remote_code=models.trust_remote_code,
            needs_head=method_of(recipe)[2].trains != "scalar_head",
        )
        check_policy(model, models.lora is not None, name)
        return _resized(model, recipe)
    plain = models.teacher_device is None and models.teacher_bits is None
    if plain and models.dtype == models.frozen_dtype and name in named_models(recipe).values():
        source = load_shared(shared, name, models.dtype, models.trust_remote_code)
    else:  # rounded once, and not as the teacher is; and not kept in memory if nothing else reads it
        source = loading.load_model(name, dtype=models.dtype, trust_remote_code=models.trust_remote_code)
    check_policy(source, False, name)  # layers are copied in models.dtype
    try:
        layers = layer_indices(source, models.policy.layers)
    except ValueError as error:
        raise RunError(f"models.policy.layers: {error}") from error
    return _resized(keep_layers(source, layers), recipe)


def _resized(policy: PreTrainedModel, recipe: Recipe) -> PreTrainedModel:
    if recipe.models.resize:
        grow_embedding(policy, num_tokens(policy_tokenizer(recipe)), recipe.seed)
    return policy


def policy_scope(policy: PreTrainedModel, recipe: Recipe) -> Scope | None:
    """The parameters that the recipe's scope names; None for all that the method trains."""
    asked = scope_key.asked(recipe)
    return None if asked is None else resolve(policy, asked)


def changed(
    policy: PreTrainedModel, recipe: Recipe, trains: Trained
) -> tuple[Any, Callable[[], AbstractContextManager] | None, Any, tuple[str, ...]]:
    """The policy with its trainable parts: an identity layer, a scalar head, an adapter, or what a scope names.

    Returns:
        The policy; a context under which it is the initial policy, where what is trained can be switched off; and
        for an adapter alone, `probe_logits` of before, see `stays_initial`; and what is to be said of the scope.
    """
    off, lora = None, recipe.models.lora
    if trains == "identity_layer":
        policy = insert_identity_layer(policy)
        train_only_identity_layer(policy)
        off = partial(bypass, policy)
    if trains == "scalar_head":
        policy = with_scalar_head(policy, recipe.seed)
        add_score_forward(policy)
    else:
        add_objective_forward(policy)
    scope = policy_scope(policy, recipe)
    notes = () if scope is None else scope.notes
    if lora is None:
        if scope is not None:
            head = [*getattr(policy, head_name(policy)).parameters()] if trains == "scalar_head" else []
            freeze_others(policy, scope, head)
        return policy, off, None, notes
    before = probe_logits(policy).detach()
    adapted = add_lora(policy, lora, recipe.seed, only=identity_layer(policy) if off is not None else None, scope=scope)
    if not base_is_unchanged(adapted, before):
        remember_initial(adapted)
    if off is not None:  # around its identity layer a policy is its start, whatever the adapter does
        return adapted, partial(bypass, adapted), None, notes
    return adapted, adapted.disable_adapter, before, notes


def marks(policy: Any, tokenizer: Any) -> tuple[tuple[int, ...], int | None]:
    """Ids of the end tokens, and of the padding."""
    return end_tokens(tokenizer, policy), tokenizer.pad_token_id
