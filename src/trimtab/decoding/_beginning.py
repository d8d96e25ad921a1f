"""Prompts that begin alike, with a system prompt or with examples: what they share is read once."""

from inspect import signature
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from trimtab.models.tokenizers import token_positions

LEAST = 8
"""tokens that must be shared to be read apart"""


class Begun(NamedTuple):
    """Prompts whose shared beginning was read: the cache holds its first `cache.get_seq_length()` columns."""

    input_ids: Tensor
    """[B, T] the beginning, then the padding, then what is a prompt's own"""
    attention_mask: Tensor
    """[B, T] int64"""
    position_ids: Tensor
    """[B, T] int64"""
    cache: Cache


def begin(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None, cache: Cache | None = None
) -> Begun | None:
    """Read what all rows begin with, as one row; every row gets a copy of its keys and values.

    Prompts are padded on the left, so the beginning moves before the padding: attention passes over the gap, and
    positions count tokens. The logits that follow are those of reading every row whole, up to rounding.

    Args:
        model: any transformers decoder.
        input_ids, attention_mask: [B, T].
        cache: an empty one to fill; None makes the model's own.

    Returns:
        None, with the cache untouched, where nothing is to be gained (one row, or fewer than `LEAST` tokens shared) or
        where it would not be the same: no mask or padding elsewhere than on the left, a model that takes no positions,
        a window that slides over columns, a state that cannot be copied.
    """
    if attention_mask is None or len(input_ids) < 2 or (attention_mask.diff(dim=1) < 0).any():
        return None
    cache = DynamicCache(config=model.config) if cache is None else cache
    if not grows(cache) or any(getattr(layer, "is_sliding", False) for layer in cache.layers):
        return None
    shared, taken = shared_tokens(input_ids, attention_mask), signature(model.forward).parameters
    if shared < LEAST or "position_ids" not in taken:
        return None
    padding = attention_mask.size(1) - attention_mask.sum(dim=1, keepdim=True)  # [B, 1]
    column = torch.arange(input_ids.size(1), device=input_ids.device)[None]
    moved = torch.where(column < shared, column + padding, column - shared)  # the beginning, then the padding
    source = torch.where(column < shared + padding, moved, column)
    input_ids, attention_mask = input_ids.gather(1, source), attention_mask.gather(1, source)
    with torch.no_grad():
        read: Any = model
        read(
            input_ids=input_ids[:1, :shared], attention_mask=attention_mask[:1, :shared],
            position_ids=column[:, :shared], past_key_values=cache, use_cache=True,
            **({"logits_to_keep": 1} if "logits_to_keep" in taken else {}),
        )  # fmt: skip
    cache.batch_repeat_interleave(len(input_ids))
    return Begun(input_ids, attention_mask, token_positions(attention_mask), cache)


def shared_tokens(input_ids: Tensor, attention_mask: Tensor) -> int:
    """How many tokens all rows begin with, [B, T] padded on the left; each row keeps at least one of its own."""
    length = attention_mask.sum(dim=1)
    most = int(length.min()) - 1
    if most < 1:
        return 0
    column = torch.arange(most, device=input_ids.device)[None]
    first = input_ids.gather(1, attention_mask.size(1) - length[:, None] + column)  # [B, most]
    return int((first == first[:1]).all(dim=0).cumprod(dim=0).sum())


def grows(cache: Any) -> bool:
    """Is it a cache of keys and values that grow, so that the past of a row can be picked or copied?"""
    return isinstance(cache, DynamicCache) and not any(
        isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers
    )
