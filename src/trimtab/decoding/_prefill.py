"""Efficient prefill: the prefix that all prompts share is read once, the rest in groups of similar length."""

from collections.abc import Sequence
from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from trimtab.models.tokenizers import token_positions

LEAST = 8
"""smallest shared prefix, in tokens, that is read separately"""
TOGETHER = {"cpu": 1024}
"""tokens read at a time, by device type, elsewhere all: on a CPU larger batches are not faster"""


class Prefilled(NamedTuple):
    """Partly prefilled prompts: the cache holds the first `cache.get_seq_length()` columns."""

    input_ids: Tensor
    """[B, T] the shared prefix, then the padding, then the rest of each prompt"""
    attention_mask: Tensor
    """[B, T] int64"""
    position_ids: Tensor
    """[B, T] int64"""
    cache: Cache


def prefill(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None, cache: Cache | None = None
) -> Prefilled | None:
    """Prefill the prefix that all rows share as one row, and if the rest is long, all of it but the last column, in
    groups of similar length; the logits are the same up to rounding.

    Prompts are left-padded, so the prefix moves before the padding: attention skips the gap, and positions count
    tokens.

    Args:
        input_ids, attention_mask: [B, T].
        cache: an empty one to fill; None makes the model's own.

    Returns:
        None, with the cache untouched, if there is nothing to gain (one row, or few short rows that share fewer than
        `LEAST` tokens) or if the result would differ: no mask, other than left padding, a model without position ids, a
        sliding window, a state that cannot be copied.
    """
    if attention_mask is None or len(input_ids) < 2 or (attention_mask.diff(dim=1) < 0).any():
        return None
    cache = DynamicCache(config=model.config) if cache is None else cache
    if not grows(cache) or any(getattr(layer, "is_sliding", False) for layer in cache.layers):
        return None
    if "position_ids" not in signature(model.forward).parameters:
        return None
    shared = shared_tokens(input_ids, attention_mask)
    shared = shared if shared >= LEAST else 0
    own = attention_mask.sum(dim=1) - shared
    groups = _groups(own.tolist(), TOGETHER.get(input_ids.device.type))
    if not shared and len(groups) == 1:
        return None
    padding = input_ids.size(1) - shared - own[:, None]  # [B, 1]
    column = torch.arange(input_ids.size(1), device=input_ids.device)[None]
    moved = torch.where(column < shared, column + padding, column - shared)  # the beginning, then the padding
    source = torch.where(column < shared + padding, moved, column)
    input_ids, attention_mask = input_ids.gather(1, source), attention_mask.gather(1, source)
    prefilled = Prefilled(input_ids, attention_mask, token_positions(attention_mask), cache)
    if len(groups) == 1:
        _read(model, prefilled, slice(0, 1), shared, shared, cache)
        cache.batch_repeat_interleave(len(input_ids))
    else:
        _read_groups(model, prefilled, shared, [(rows, int(own[rows].max())) for rows in groups])
    return prefilled


def _groups(lengths: Sequence[int], together: int | None) -> list[list[int]]:
    """Groups of rows of similar length, with at most this many tokens including padding; one group without a limit."""
    groups: list[list[int]] = [[]]
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        last = groups[-1]
        if last and together is not None and (len(last) + 1) * lengths[last[0]] > together:
            groups.append(last := [])
        last.append(row)
    return groups


def _read(
    model: PreTrainedModel, prefilled: Prefilled, rows: slice | list[int], own: int, end: int, cache: Cache
) -> None:
    """Add the last `own` columns before `end` to a cache that holds all earlier tokens of these rows."""
    seen = cache.get_seq_length()
    ids, mask, positions = (part[rows, end - own : end] for part in prefilled[:3])
    past = mask.new_ones(len(mask), seen)
    with torch.no_grad():
        read: Any = model
        read(
            input_ids=ids, attention_mask=torch.cat([past, mask], dim=1), position_ids=positions,
            past_key_values=cache, use_cache=True,
            **({"logits_to_keep": 1} if "logits_to_keep" in signature(model.forward).parameters else {}),
        )  # fmt: skip


def _read_groups(
    model: PreTrainedModel, prefilled: Prefilled, shared: int, groups: Sequence[tuple[list[int], int]]
) -> None:
    """Fill the cache with all columns but the last; a group is its rows and its longest remainder in tokens."""
    last, parts = prefilled.input_ids.size(1) - 1, []
    first: Any = DynamicCache(config=model.config)
    if shared:
        _read(model, prefilled, slice(0, 1), shared, shared, first)
    for rows, own in groups:
        part = DynamicCache(config=model.config)
        for number, layer in enumerate(first.layers if shared else ()):
            if layer.is_initialized:
                keys, values = (t.expand(len(rows), -1, -1, -1) for t in (layer.keys, layer.values))
                part.update(keys, values, number)
        if own > 1:
            _read(model, prefilled, rows, own - 1, last, part)
        parts.append(part)
    order = [row for rows, _ in groups for row in rows]
    back = torch.tensor(order, device=prefilled.input_ids.device).argsort() if order != sorted(order) else slice(None)

    def whole(states: Sequence[Tensor | None]) -> Tensor:
        """One tensor from those of the groups, with the padding between prefix and rest."""
        padded = []
        for part, (rows, _) in zip(states, groups):
            if part is None:  # single tokens, which are left for later
                part = padded[0].new_zeros(len(rows), *padded[0].shape[1:])
            gap = part.new_zeros(part.size(0), part.size(1), last - part.size(2), part.size(3))
            padded.append(torch.cat([part[:, :, :shared], gap, part[:, :, shared:]], dim=2))
        return torch.cat(padded)[back]

    for number, layers in enumerate(zip(*(part.layers for part in parts))):
        if layers[0].is_initialized:
            keys, values = ([getattr(layer, name, None) for layer in layers] for name in ("keys", "values"))
            prefilled.cache.update(whole(keys), whole(values), number)
            for layer in layers:
                layer.reset()


def shared_tokens(input_ids: Tensor, attention_mask: Tensor) -> int:
    """Length of the prefix that all rows share, [B, T] left-padded; each row keeps at least one token of its own."""
    length = attention_mask.sum(dim=1)
    most = int(length.min()) - 1
    if most < 1:
        return 0
    column = torch.arange(most, device=input_ids.device)[None]
    first = input_ids.gather(1, attention_mask.size(1) - length[:, None] + column)  # [B, most]
    return int((first == first[:1]).all(dim=0).cumprod(dim=0).sum())


def grows(cache: Any) -> bool:
    """Whether it is a cache of growing keys and values, so that rows can be selected or copied."""
    return isinstance(cache, DynamicCache) and not any(
        isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers
    )
