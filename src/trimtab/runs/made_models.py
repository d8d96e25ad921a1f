"""Models that earlier runs of a command will write: their configs, for estimates before anything is trained."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.models import loading
from trimtab.models.footprint import cut_config
from trimtab.models.growth import num_tokens
from trimtab.models.student import evenly_spaced
from trimtab.runs.models_key import cache_folder, rename_models
from trimtab.runs.recipe import Recipe, policy_source


@dataclass(frozen=True)
class MadeModel:
    """A model that an earlier run of the command will write."""

    config: Any
    origin: str
    """the model that it descends from, which has its tokenizer and its places"""
    head: int = 0
    """bytes of the head beside cached hidden states"""


def made_cache(recipe: Recipe, made: Mapping[str, MadeModel]) -> MadeModel:
    """What a stage with precompute will write."""
    name, spec = str(recipe.models.teacher), recipe.precompute
    config = config_of(name, recipe, made)
    text, half = config.get_text_config(decoder=True), recipe.models.frozen_dtype != "float32"
    head = text.vocab_size * text.hidden_size * (2 if half else 4)
    origin = made[name].origin if name in made and not Path(name).is_dir() else name
    return MadeModel(config, origin, head if spec is not None and spec.teacher == "hidden" else 0)


def with_origins(recipe: Recipe, made: Mapping[str, MadeModel]) -> Recipe:
    """The recipe with what is there already in the place of models that are yet to be trained."""
    known = recipe.model_copy(deep=True)

    def origin(name: str) -> str:
        return made[name].origin if name in made and not (cache_folder(name) or Path(name)).is_dir() else name

    rename_models(known.models, origin)
    return known


def config_of(name: str, recipe: Recipe, made: Mapping[str, MadeModel]) -> Any:
    """Of a model, or of what an earlier run of the same command writes."""
    if name in made and not Path(name).is_dir():
        return copy.deepcopy(made[name].config)
    return loading.load_config(name, trust_remote_code=recipe.models.trust_remote_code)


def policy_config(recipe: Recipe, made: Mapping[str, MadeModel], tokenizer: Any) -> Any:
    models = recipe.models
    config = config_of(policy_source(recipe), recipe, made)
    text = config.get_text_config(decoder=True)
    if models.resize:
        text.vocab_size = max(text.vocab_size, num_tokens(tokenizer))
    if isinstance(models.policy, str):
        return config
    asked = models.policy.layers
    layers = evenly_spaced(text.num_hidden_layers, asked) if isinstance(asked, int) else list(asked)
    return cut_config(config, layers)


def written_config(config: Any, identity_layer: bool) -> Any:
    """The config of the model that a run writes."""
    if not identity_layer:
        return config
    return cut_config(config, [0, *range(config.get_text_config().num_hidden_layers)])
