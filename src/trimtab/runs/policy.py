"""The policy of a recipe: its method, tokenizer, vocabulary and weights."""

from dataclasses import dataclass, field, replace
from typing import Any

from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trimtab import methods
from trimtab.core import Method, MethodConfig, Wants
from trimtab.data import stored
from trimtab.models import loading
from trimtab.models.ends import end_tokens
from trimtab.models.growth import grow_embedding, num_tokens
from trimtab.models.quantised import check_policy
from trimtab.models.student import asked_layers, keep_layers
from trimtab.runs.recipe import STORED, Cut, Recipe, policy_source
from trimtab.runs.run_folder import RunError
from trimtab.signals.frozen import FrozenModel


@dataclass
class Shared:
    """What several stages of one process need not load twice."""

    models: dict[Any, PreTrainedModel] = field(default_factory=dict)
    teachers: dict[Any, FrozenModel] = field(default_factory=dict)


def method_of(recipe: Recipe) -> tuple[Method, MethodConfig, Wants]:
    """The recipe's method, its settings, and what they want of models and rows."""
    method = methods.load(recipe.method)
    options = method.config.model_validate(recipe.options)
    wants = method.wanted(options)
    if recipe.models.reference == STORED:
        wants = replace(wants, columns=(*wants.columns, stored.REFERENCE))
    return method, options, wants


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


def load_shared(shared: Shared, name: str, dtype: str, trust: bool) -> PreTrainedModel:
    key = (name, dtype)
    if key not in shared.models:
        shared.models[key] = loading.load_model(name, dtype=dtype, trust_remote_code=trust)
    return shared.models[key]


def make_policy(recipe: Recipe, shared: Shared) -> PreTrainedModel:
    """The model that training starts from, without adapter or identity layer."""
    models = recipe.models
    name = policy_source(recipe)
    if isinstance(models.policy, str):
        model = loading.load_model(
            name,
            dtype=models.dtype,
            trust_remote_code=models.trust_remote_code,
            needs_head=not method_of(recipe)[2].scalar_head,
        )
        check_policy(model, models.lora is not None, name)
        return _resized(model, recipe)
    if models.dtype == models.frozen_dtype:
        source = load_shared(shared, name, models.dtype, models.trust_remote_code)
    else:  # rounded once, and not as the teacher is
        source = loading.load_model(name, dtype=models.dtype, trust_remote_code=models.trust_remote_code)
    check_policy(source, False, name)  # layers are copied in models.dtype
    try:
        layers = asked_layers(source, models.policy.layers)
    except ValueError as error:
        raise RunError(f"models.policy.layers: {error}") from error
    return _resized(keep_layers(source, layers), recipe)


def _resized(policy: PreTrainedModel, recipe: Recipe) -> PreTrainedModel:
    if recipe.models.resize:
        grow_embedding(policy, num_tokens(policy_tokenizer(recipe)), recipe.seed)
    return policy


def marks(policy: Any, tokenizer: Any) -> tuple[tuple[int, ...], int | None]:
    """Ids of the end tokens, and of the padding."""
    return end_tokens(tokenizer, policy), tokenizer.pad_token_id
