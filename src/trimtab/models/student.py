"""A smaller model made from a larger one by keeping some of its layers."""

from collections.abc import Sequence
from copy import deepcopy

from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel


def evenly_spaced(num_layers: int, keep: int) -> list[int]:
    """`keep` of `num_layers` indices, as even as can be, the first and the last among them.

    Raises:
        ValueError: if `keep` is not between 1 and `num_layers`.
    """
    if not 1 <= keep <= num_layers:
        raise ValueError(f"cannot keep {keep} of {num_layers} layers")
    if keep == 1:
        return [0]
    return [round(i * (num_layers - 1) / (keep - 1)) for i in range(keep)]


def asked_layers(model: PreTrainedModel, layers: int | Sequence[int]) -> list[int]:
    """Indices of the layers that are meant: these, or so many, evenly spaced.

    Raises:
        ValueError: if there are not so many.
    """
    if isinstance(layers, int):
        return evenly_spaced(model.config.get_text_config().num_hidden_layers, layers)
    return list(layers)


def find_layers(model: nn.Module, num_layers: int) -> tuple[str, nn.ModuleList]:
    """The list of decoder layers of any transformers decoder, found by its length and not by its name.

    Raises:
        ValueError: if no such list, or more than one, is there.
    """
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == num_layers]
    found = [pair for pair in found if not any(pair[0].startswith(f"{other}.") for other, _ in found)]
    if len(found) != 1:
        names = ", ".join(name for name, _ in found) or "none"
        raise ValueError(f"{type(model).__name__}: looked for one list of {num_layers} decoder layers, found: {names}")
    return found[0]


def keep_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A new model with the given layers of `model`, in that order, and copies of all else.

    Layers are renumbered (caches and attention types go by a layer's own index) and lists in the
    config that have one entry a layer are cut alike.

    Args:
        model: any transformers decoder; it is left as it was.
        layers: indices, ascending.

    Raises:
        ValueError: if `layers` is empty, not ascending, or names a layer that is not there.
    """
    total = model.config.get_text_config().num_hidden_layers
    layers = list(layers)
    if not layers or layers != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= total:
        raise ValueError(f"layers must be ascending indices from 0 to {total - 1}, got {layers}")
    return copy_layers(model, layers)


def copy_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A new model whose layer i is a copy of layer `layers[i]` of `model`; one layer may be copied more than once.

    Layers are renumbered (caches and attention types go by a layer's own index) and lists in the
    config that have one entry a layer follow.
    """
    config = deepcopy(model.config)
    text = config.get_text_config()
    total = text.num_hidden_layers
    for name, value in list(vars(text).items()):
        if isinstance(value, (list, tuple)) and len(value) == total and "token" not in name and name != "architectures":
            setattr(text, name, type(value)(value[i] for i in layers))
    text.num_hidden_layers = len(layers)
    if getattr(text, "max_window_layers", None) is not None:
        text.max_window_layers = sum(i < text.max_window_layers for i in layers)
    made = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    path, _ = find_layers(model, total)
    state = {}
    for name, value in model.state_dict().items():
        if not name.startswith(f"{path}."):
            state[name] = value
            continue
        index, _, rest = name.removeprefix(f"{path}.").partition(".")
        state |= {f"{path}.{new}.{rest}": value for new, old in enumerate(layers) if old == int(index)}
    made.load_state_dict(state, strict=True)
    for name, buffer in model.named_buffers():  # those that are not saved, such as rotary tables, which `.to` may round
        if name not in state and not name.startswith(f"{path}."):
            owner, _, own = name.rpartition(".")
            setattr(made.get_submodule(owner), own, buffer.clone())
    made.tie_weights()
    made.generation_config = deepcopy(model.generation_config)
    return made.to(model.device).train(model.training)
