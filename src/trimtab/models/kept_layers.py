"""Settings of a config that depend on a layer's index, for a model that keeps some of its layers.

Rules by names of transformers' configs; what they miss fails when the model is built (`models.student`).
"""

from collections.abc import Sequence
from typing import Any

INDICES = (
    "mlp_only_layers", "moe_layers", "attn_layer_indices", "full_attn_idxs", "cross_attention_layers",
    "hybrid_layer_ids",
)  # fmt: skip
"""which layers are of one kind"""
FIRST = ("max_window_layers", "first_k_dense_replace", "num_dense_layers")
"""how many of the first layers are of one kind"""
NUMBERS = ("decoder_layers", "num_decoder_layers", "encoder_layers")
"""other names of num_hidden_layers"""
NOT_BY_LAYER = ("token", "architectures", "time_step", "multipliers")
"""parts of names of lists that are not per layer, whatever their length"""
PERIODS = (("attn_layer_period", "attn_layer_offset"), ("expert_layer_period", "expert_layer_offset"))


def cut(text: Any, layers: Sequence[int]) -> None:
    """Change a text config, in place, to that of a model whose layer i is its layer `layers[i]`."""
    total = text.num_hidden_layers
    before = dict(vars(text))
    sparse = _sparse(before, total)
    mixture = _mixture(before, total)
    periods = {pair: _flags(before, pair, total) for pair in PERIODS if None not in map(before.get, pair)}
    for name, value in before.items():
        if name in INDICES and isinstance(value, (list, tuple)):
            setattr(text, name, [new for new, old in enumerate(layers) if old in value])
        elif name in FIRST and value is not None:
            setattr(text, name, sum(i < value for i in layers))
        elif name == "block_types" and isinstance(value, (list, tuple)):  # repeated until the layers end
            setattr(text, name, [value[i % len(value)] for i in layers])
        elif isinstance(value, (list, tuple)) and _is_per_layer(name, value, total):
            setattr(text, name, type(value)(value[i] for i in layers))
        elif name in NUMBERS and value == total:
            setattr(text, name, len(layers))
    if before.get("scale_depth"):  # over the root of the number of layers
        text.scale_depth *= (len(layers) / total) ** 0.5
    text.num_hidden_layers = len(layers)
    if (own := before.get("_heterogeneity_spec")) is not None:  # settings that single layers have otherwise
        found = own.per_layer_overrides
        text.per_layer_config = {new: dict(found[old]) for new, old in enumerate(layers) if old in found}
    if sparse is not None:
        text.decoder_sparse_step, text.mlp_only_layers = 1, [new for new, old in enumerate(layers) if not sparse[old]]
    if mixture is not None:
        kept = [new for new, old in enumerate(layers) if mixture[old]]
        text.moe_layer_interval = 1
        text.moe_layer_start_index, text.moe_layer_end_index = (kept[0], kept[-1]) if kept else (len(layers), 0)
    for pair, flags in periods.items():
        for name, value in zip(pair, _period([flags[i] for i in layers])):
            setattr(text, name, value)


def _is_per_layer(name: str, value: Sequence[Any], total: int) -> bool:
    return len(value) == total and not any(part in name for part in NOT_BY_LAYER)


def _sparse(config: dict[str, Any], total: int) -> list[bool] | None:
    """Which layers are mixtures of experts by qwen2_moe's rule, if the config has it."""
    step = config.get("decoder_sparse_step")
    if not step:
        return None
    dense = config.get("mlp_only_layers") or ()
    return [i not in dense and (i + 1) % step == 0 for i in range(total)]


def _mixture(config: dict[str, Any], total: int) -> list[bool] | None:
    """Which layers are mixtures of experts by ernie4_5_moe's rule, if the config has it."""
    names = ("moe_layer_interval", "moe_layer_start_index", "moe_layer_end_index")
    every, first, last = map(config.get, names)
    if every is None or first is None or last is None:
        return None
    last = total - 1 if last == -1 else last
    return [(i + 1) % every == 0 and first <= i <= last for i in range(total)]


def _flags(config: dict[str, Any], pair: tuple[str, str], total: int) -> list[bool]:
    period, offset = map(config.__getitem__, pair)
    return [i % period == offset for i in range(total)]


def _period(flags: Sequence[bool]) -> tuple[int, int]:
    """The period and offset that select these layers; if there are none, some with which building the model fails."""
    pairs = [(period, offset) for period in range(1, len(flags) + 2) for offset in range(period)]
    alike = (pair for pair in pairs if [i % pair[0] == pair[1] for i in range(len(flags))] == list(flags))
    return next(alike, pairs[-1])
