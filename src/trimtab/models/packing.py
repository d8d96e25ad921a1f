"""Several rows in one sequence of a model's layers, each with its own positions and blind to the others.

Outside the layers rows stay rows: a packed batch holds them padded, as ever, with the place of each in the packs. So
labels, signals, objectives and draws do not know of packs, and no token is predicted from another row's.
"""

from dataclasses import dataclass
from inspect import Parameter, signature
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.masking_utils import create_masks_for_generate
from transformers.utils.generic import is_flash_attention_requested

PLACE = "place"
"""in a packed batch: [R, 2] the pack of each row, and where it starts in it. With a third column rows share their first
tokens: so many of them are those of the row before it in the pack, and only what follows stands at its place"""


@dataclass(frozen=True)
class Packs:
    """Rows as the layers read them."""

    arguments: dict[str, Any]
    """of the layers: `input_ids`, `position_ids` [B, L], and no mask, so that transformers tells rows by positions"""
    mask: Tensor
    """[B, L] bool, False at padding"""
    index: Tensor
    """[R, T] of each token in [B * L]; 0 at padding"""


def packs(input_ids: Tensor, attention_mask: Tensor, place: Tensor, flat: bool = False) -> Packs:
    """Lay rows out as packs. Tokens that rows share stand once.

    Args:
        input_ids, attention_mask: [R, T] padded on the right.
        place: see `PLACE`.
        flat: one sequence of all rows without padding, as flash attention reads it; no row shares tokens then.
    """
    real = attention_mask.bool()
    lengths = real.sum(dim=1)
    pack, start, *shared = place.to(real.device).unbind(dim=1)
    if flat:
        pack, start = torch.zeros_like(pack), lengths.cumsum(0) - lengths
    own = lengths
    if shared:  # a row begins where it would if all of its tokens stood there
        start, own = start - shared[0], lengths - shared[0]
    number, width = int(pack.max()) + 1, int((start + lengths).max())
    within = torch.arange(real.size(1), device=real.device).expand_as(real)
    index = (pack * width + start)[:, None] + within
    for before, row, tokens in _sharing(place):
        index[row, :tokens] = index[before, :tokens]
    filled = lengths.new_zeros(number).index_add(0, pack, own)
    # the padding is one more row: its positions begin at 0 too
    position_ids = torch.arange(width, device=real.device).expand(number, -1) - filled[:, None]
    position_ids = position_ids.flatten().index_put((index[real],), within[real]).view(number, width)
    # filled with an id that is not the padding's, which some models warn of
    ids = (
        input_ids.new_full((number * width,), int(input_ids[0, 0]))
        .index_put((index[real],), input_ids[real])
        .view(number, width)
    )
    mask = torch.arange(width, device=real.device) < filled[:, None]
    arguments = {"input_ids": ids, "position_ids": position_ids, "attention_mask": None}
    return Packs(arguments, mask, index.masked_fill(~real, 0))


def _sharing(place: Tensor) -> list[tuple[int, int, int]]:
    """Rows that share tokens, each behind the one that it shares them with: (that one, the row, tokens)."""
    if place.size(1) < 3:
        return []
    known = place.tolist()
    order = sorted(range(len(known)), key=known.__getitem__)
    return [(before, row, known[row][2]) for before, row in pairwise(order) if known[row][2]]


def seen_in(found: Packs, attention_mask: Tensor, place: Tensor) -> Tensor:
    """[B, L, L] bool: which tokens (the last dimension) each token of packs may see, where rows share some.

    A token sees those before it in its own row, wherever they stand: of an earlier row in its pack it sees what all
    rows from there on share. Padding sees itself alone.
    """
    real, rows = attention_mask.bool(), len(place)
    number = torch.arange(rows, device=real.device)
    # tokens at the beginning of one row (the first dimension) that another has too
    common = real.size(1) * torch.eye(rows, dtype=torch.int32, device=real.device)
    for before, row, tokens in _sharing(place):
        common[:, row] += common[:, before].clamp(max=tokens)
    own = real & (torch.arange(real.size(1), device=real.device) >= place[:, 2].to(real.device)[:, None])
    whose = torch.zeros_like(found.mask, dtype=torch.long).flatten()
    whose = whose.index_put((found.index[own],), number[:, None].expand_as(real)[own]).view_as(found.mask)
    at, mask = found.arguments["position_ids"], found.mask
    seen = at[:, None, :] < common[whose[:, None, :], whose[:, :, None]]
    seen &= (at[:, None, :] <= at[:, :, None]) & mask[:, None, :] & mask[:, :, None]
    return seen | torch.eye(at.size(1), dtype=torch.bool, device=real.device)


HOW = "_trimtab_packs"
"""attribute of layers: how they read packs, "positions" if there is none. With "masks" they pass no positions on where
their masks are made, so that the masks are made here; with "padded" they read rows as they are."""


def packs_for(layers: nn.Module, input_ids: Tensor, attention_mask: Tensor, place: Tensor) -> Packs:
    """`packs` in the form that these layers read. Flash attention reads the rows without padding."""
    config: Any = layers.config
    shares = place.size(1) > 2
    flat = not shares and is_flash_attention_requested(config)
    found = packs(input_ids, attention_mask, place, flat)
    arguments = found.arguments
    if shares:
        arguments["attention_mask"] = _masks(seen_in(found, attention_mask, place), arguments["position_ids"], layers)
    elif flat:
        arguments.update(_lengths(layers, attention_mask))
    elif getattr(layers, HOW, None) == "masks":
        ids = arguments["input_ids"]
        empty = torch.empty(*ids.shape, 0, dtype=next(layers.parameters()).dtype, device=ids.device)
        arguments["attention_mask"] = create_masks_for_generate(
            config, empty, None, past_key_values=None, position_ids=arguments["position_ids"]
        )
    return found


def _masks(seen: Tensor, at: Tensor, layers: nn.Module) -> Tensor | dict[str, Tensor]:
    """What is seen as the mask that these layers take, [B, 1, L, L], one for each type of layer where windows differ:
    sdpa takes a bool, others add it to their logits.

    Args:
        seen: [B, L, L].
        at: [B, L] positions in the rows.
    """
    config: Any = layers.config
    config = config.get_text_config()
    types = set(getattr(config, "layer_types", None) or ())
    if not types:
        named = ("sliding_attention", "sliding_window"), ("chunked_attention", "attention_chunk_size")
        types = {next((kind for kind, key in named if getattr(config, key, None)), "full_attention")}
    dtype = next(layers.parameters()).dtype
    masks = {}
    for kind in types:
        mask = _within_window(seen, at, kind, config)[:, None]
        if config._attn_implementation != "sdpa":
            mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
        masks[kind] = mask
    return masks if len(masks) > 1 else masks.popitem()[1]


def _within_window(seen: Tensor, at: Tensor, kind: str, config: Any) -> Tensor:
    """[B, L, L] `seen` as far as a type of layer sees, by positions in the rows."""
    if kind == "sliding_attention":
        return seen & (at[:, :, None] - at[:, None, :] < config.sliding_window)
    if kind == "chunked_attention":
        chunk = at // config.attention_chunk_size
        return seen & (chunk[:, :, None] == chunk[:, None, :])
    return seen


def _lengths(layers: nn.Module, attention_mask: Tensor) -> dict[str, Any]:
    """The rows' lengths as flash attention takes them, which would otherwise be found anew in each layer."""
    if all(one.kind is not Parameter.VAR_KEYWORD for one in signature(layers.forward).parameters.values()):
        return {}
    lengths = attention_mask.sum(dim=1)
    ends = pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    longest = int(lengths.max())
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
