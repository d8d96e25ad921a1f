"""A smaller model made from a larger one by keeping some of its layers."""

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from trimtab.common.errors import UserError
from trimtab.models import kept_layers


class Differs(UserError):
    """Layers that would differ at another position of the model."""


def evenly_spaced(num_layers: int, keep: int) -> list[int]:
    """`keep` of `num_layers` indices, spaced as evenly as possible, including the first and the last."""
    if not 1 <= keep <= num_layers:
        raise UserError(f"cannot keep {keep} of {num_layers} layers")
    if keep == 1:
        return [0]
    return [round(i * (num_layers - 1) / (keep - 1)) for i in range(keep)]


def layer_indices(model: PreTrainedModel, layers: int | Sequence[int]) -> list[int]:
    """Indices of layers: these, or so many, evenly spaced."""
    if isinstance(layers, int):
        return evenly_spaced(model.config.get_text_config().num_hidden_layers, layers)
    return list(layers)


def find_layers(model: nn.Module, num_layers: int) -> tuple[str, nn.ModuleList]:
    """The list of layers of any transformers model, found by its length and not by its name."""
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == num_layers]
    found = [pair for pair in found if not any(pair[0].startswith(f"{other}.") for other, _ in found)]
    if len(found) > 1:  # lists of position tables have no parameters
        found = [pair for pair in found if next(pair[1].parameters(), None) is not None]
    if len(found) > 1 and isinstance(model, PreTrainedModel):  # multimodal: the text model
        found = [pair for pair in found if _is_of_text(model, pair[0])]
    if len(found) != 1:
        names = ", ".join(name for name, _ in found) or "none"
        raise UserError(f"{type(model).__name__}: looked for one list of {num_layers} decoder layers, found: {names}")
    return found[0]


def _is_of_text(model: PreTrainedModel, path: str) -> bool:
    """Whether the nearest module around it that has a config has the text model's."""
    text, names = model.config.get_text_config(decoder=True), path.split(".")
    around = (model.get_submodule(".".join(names[:number])) for number in range(len(names) - 1, -1, -1))
    config = next(part.config for part in around if hasattr(part, "config"))
    return config is model.config or config.model_type == text.model_type  # type: ignore[union-attr]


def keep_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A new model with these layers of `model`, and copies of all else.

    Layers are renumbered (caches and attention types depend on a layer's index) and the config's lists with one entry
    per layer are cut alike.

    Args:
        model: any transformers decoder or classifier.
        layers: ascending indices.

    Raises:
        UserError: if `layers` is not that, or a layer would differ at its new position.
    """
    total = model.config.get_text_config().num_hidden_layers
    layers = list(layers)
    if not layers or layers != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= total:
        raise UserError(f"layers must be ascending indices from 0 to {total - 1}, got {layers}")
    try:
        made = copy_layers(model, layers)
        _check_alike(model, made, layers)
    except Differs as error:
        way_out = "keep other layers, including the first ones, or use a smaller model as the student"
        raise Differs(f"{error}; {way_out}") from error
    return made


def copy_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A new model whose layer i is a copy of layer `layers[i]` of `model`; a layer may be copied more than once."""
    config = deepcopy(model.config)
    text = config.get_text_config()
    total = text.num_hidden_layers
    made = _built(model, config, layers)
    path, _ = find_layers(model, total)
    state, wanted = {}, made.state_dict()
    for name, value in model.state_dict().items():
        if not name.startswith(f"{path}."):
            state[name] = _of_layers(value, wanted.get(name), total, layers)
            continue
        index, _, rest = name.removeprefix(f"{path}.").partition(".")
        state |= {f"{path}.{new}.{rest}": value for new, old in enumerate(layers) if old == int(index)}
    try:
        made.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise _differs(model, layers, str(error).strip().splitlines()[-1].strip()) from error
    for name, buffer in model.named_buffers():  # not saved, such as rotary tables, which `.to` may round
        if name not in state and not name.startswith(f"{path}."):
            owner, _, own = name.rpartition(".")
            setattr(made.get_submodule(owner), own, buffer.clone())
    made.tie_weights()
    if getattr(model, "generation_config", None) is not None:
        made.generation_config = deepcopy(model.generation_config)
    return made.to(model.device).train(model.training)  # type: ignore[arg-type]


def _of_layers(value: Tensor, wanted: Tensor | None, total: int, layers: Sequence[int]) -> Tensor:
    """A table with one part per layer (gemma4's embeddings for each layer), cut to these layers; any other as it is."""
    if wanted is None or value.dim() != wanted.dim() or value.shape == wanted.shape:
        return value
    for dim, (before, after) in enumerate(zip(value.shape, wanted.shape)):
        if before % total == 0 and before // total * len(layers) == after:
            parts = value.unflatten(dim, (total, before // total))
            found = parts.index_select(dim, torch.tensor(layers, device=value.device)).flatten(dim, dim + 1)
            return found if found.shape == wanted.shape else value
    return value


def _built(model: PreTrainedModel, config: Any, layers: Sequence[int]) -> PreTrainedModel:
    try:
        kept_layers.cut(config.get_text_config(), layers)
        return _auto_class(model).from_config(config, dtype=model.dtype)
    except Exception as error:  # of the model's own class
        raise _differs(model, layers, str(error).strip().splitlines()[-1].strip()) from error


def _auto_class(model: PreTrainedModel) -> Any:
    classifies = type(model).__name__.endswith("ForSequenceClassification")
    return AutoModelForSequenceClassification if classifies else AutoModelForCausalLM


def _differs(model: PreTrainedModel, layers: Sequence[int], reason: str) -> Differs:
    return Differs(
        f"{type(model).__name__} ({model.config.model_type}) cannot be built from its layers {list(layers)} alone, "
        f"because they differ by position ({reason[:200]})"
    )


def _check_alike(model: PreTrainedModel, made: PreTrainedModel, layers: Sequence[int]) -> None:
    """Check that the layers' modules have the same classes, numbers and strings as before."""
    total = model.config.get_text_config().num_hidden_layers
    if getattr(model.config, "scale_attn_by_inverse_layer_idx", False) and list(layers) != list(range(len(layers))):
        raise _differs(model, layers, "scale_attn_by_inverse_layer_idx")
    with torch.device("meta"):  # newly built: some classes add modules to a layer as it runs
        fresh = _auto_class(model).from_config(deepcopy(model.config), dtype=model.dtype)
    old, new = find_layers(fresh, total)[1], find_layers(made, len(layers))[1]
    for place, (number, layer) in enumerate(zip(layers, new)):
        before, after = _facts(old[number]), _facts(layer)
        for name in {**before, **after}:
            if not _same(before.get(name), after.get(name)):
                change = f"is {before.get(name)} in layer {number} and would be {after.get(name)} in layer {place}"
                raise _differs(model, layers, f"{name} {change}")


def _same(one: Any, other: Any) -> bool:
    return math.isclose(one, other) if isinstance(one, float) and isinstance(other, float) else one == other


def _facts(layer: nn.Module) -> dict[str, Any]:
    """Classes, numbers and strings of a layer's modules, without its index and what changes as it runs."""
    found: dict[str, Any] = {}
    for path, module in layer.named_modules():
        found[path] = type(module).__name__
        for name, value in vars(module).items():
            if isinstance(value, (bool, int, float, str)) and name not in NOT_ALIKE and not name.startswith("_"):
                found[f"{path}.{name}".removeprefix(".")] = value
    return found


NOT_ALIKE = ("training", "layer_idx", "layer_id", "layer_number", "gradient_checkpointing", "seed")
