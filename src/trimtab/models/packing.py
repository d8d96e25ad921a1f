"""Several rows in one sequence of a model's layers, each with its own positions and blind to the others.

Outside the layers rows stay rows: a packed batch holds them padded, as ever, with the place of each in the packs. So
labels, signals, objectives and draws do not know of packs, and no token is predicted from another row's.
"""

from dataclasses import dataclass
from inspect import Parameter, signature
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
    seen: Tensor | None = None
    """[B, L, L] bool: which tokens (the last dimension) each token may see, if rows share some"""


def packs(input_ids: Tensor, attention_mask: Tensor, place: Tensor, flat: bool = False) -> Packs:
    """Lay rows out as packs.

    Args:
        input_ids, attention_mask: [R, T] padded on the right.
        place: see `PLACE`.
        flat: one sequence of all rows without padding, as flash attention reads it.
    """
    real = attention_mask.bool()
    lengths = real.sum(dim=1)
    pack, start = place.to(real.device).unbind(dim=1)
    if flat:
        pack, start = torch.zeros_like(pack), lengths.cumsum(0) - lengths
    number, width = int(pack.max()) + 1, int((start + lengths).max())
    within = torch.arange(real.size(1), device=real.device).expand_as(real)
    index = (pack * width + start)[:, None] + within
    filled = lengths.new_zeros(number).index_add(0, pack, lengths)
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


def packs_of_shared(input_ids: Tensor, attention_mask: Tensor, place: Tensor) -> Packs:
    """Lay rows out as packs in which tokens that rows share stand once.

    A token sees those before it in its own row, wherever they stand: of an earlier row in its pack it sees what all
    rows from there on share.

    Args:
        input_ids, attention_mask: [R, T] padded on the right.
        place: [R, 3], see `PLACE`.
    """
    real = attention_mask.bool()
    lengths, (pack, start, shared) = real.sum(dim=1), place.to(real.device).unbind(dim=1)
    number, width = int(pack.max()) + 1, int((start + lengths - shared).max())
    rows, longest = real.shape
    within = torch.arange(longest, device=real.device).expand_as(real)
    index = (pack * width + start - shared)[:, None] + within
    common = torch.zeros(rows, rows, dtype=torch.int32, device=real.device)  # tokens of each row that others have too
    known = place.tolist()
    order = sorted(range(rows), key=lambda i: known[i][:2])
    for before, i in zip([order[0], *order], order):
        if known[i][2]:
            index[i] = torch.where(within[i] < known[i][2], index[before], index[i])
            common[:, i] = common[:, before].clamp(max=known[i][2])
        common[i, i] = longest
    own = real & (within >= shared[:, None])
    whose = torch.full((number * width,), -1, device=real.device).index_put(
        (index[own],), torch.arange(rows, device=real.device)[:, None].expand_as(real)[own]
    )
    mask = (whose >= 0).view(number, width)
    positions = torch.zeros_like(whose).index_put((index[own],), within[own]).view(number, width)
    ids = input_ids.new_full((number * width,), int(input_ids[0, 0])).index_put((index[own],), input_ids[own])
    whose = whose.clamp(min=0).view(number, width)
    seen = positions[:, None, :] < common[whose[:, None, :], whose[:, :, None]]
    seen &= (positions[:, None, :] <= positions[:, :, None]) & mask[:, None, :] & mask[:, :, None]
    seen |= torch.eye(width, dtype=torch.bool, device=real.device)  # padding sees itself, as it must see something
    arguments = {"input_ids": ids.view(number, width), "position_ids": positions, "attention_mask": None}
    return Packs(arguments, mask, index.masked_fill(~real, 0), seen)


HOW = "_trimtab_packs"
"""attribute of layers: how they read packs, "positions" if there is none. With "masks" they pass no positions on where
their masks are made, so that the masks are made here; with "padded" they read rows as they are."""


def packs_for(layers: nn.Module, input_ids: Tensor, attention_mask: Tensor, place: Tensor) -> Packs:
    """`packs` in the form that these layers read. Flash attention reads the rows without padding."""
    config: Any = layers.config
    if place.size(1) > 2:
        found = packs_of_shared(input_ids, attention_mask, place)
        found.arguments["attention_mask"] = _masks_of_shared(found, layers)
        return found
    flat = is_flash_attention_requested(config)
    found = packs(input_ids, attention_mask, place, flat)
    arguments = found.arguments
    if flat:
        arguments.update(_lengths(layers, attention_mask))
    elif getattr(layers, HOW, None) == "masks":
        ids = arguments["input_ids"]
        empty = torch.empty(*ids.shape, 0, dtype=next(layers.parameters()).dtype, device=ids.device)
        arguments["attention_mask"] = create_masks_for_generate(
            config, empty, None, past_key_values=None, position_ids=arguments["position_ids"]
        )
    return found


def _masks_of_shared(found: Packs, layers: nn.Module) -> Tensor | dict[str, Tensor]:
    """[B, 1, L, L] in the form that these layers take, one for each type of layer where windows differ: sdpa takes a
    bool, others add it to their logits."""
    config: Any = layers.config
    config = config.get_text_config()
    types = set(getattr(config, "layer_types", None) or ())
    if not types:
        named = ("sliding_attention", "sliding_window"), ("chunked_attention", "attention_chunk_size")
        types = {next((kind for kind, key in named if getattr(config, key, None)), "full_attention")}
    dtype = next(layers.parameters()).dtype
    masks = {}
    for kind in types:
        seen = _within_window(found, kind, config)[:, None]
        if config._attn_implementation != "sdpa":
            seen = torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
        masks[kind] = seen
    return masks if len(masks) > 1 else masks.popitem()[1]


def _within_window(found: Packs, kind: str, config: Any) -> Tensor:
    """[B, L, L] `seen` as far as a type of layer sees, by positions in the rows."""
    assert found.seen is not None
    at: Tensor = found.arguments["position_ids"]
    if kind == "sliding_attention":
        return found.seen & (at[:, :, None] - at[:, None, :] < config.sliding_window)
    if kind == "chunked_attention":
        chunk = at // config.attention_chunk_size
        return found.seen & (chunk[:, :, None] == chunk[:, None, :])
    return found.seen


def _lengths(layers: nn.Module, attention_mask: Tensor) -> dict[str, Any]:
    """The rows' lengths as flash attention takes them, which would otherwise be found anew in each layer."""
    if all(one.kind is not Parameter.VAR_KEYWORD for one in signature(layers.forward).parameters.values()):
        return {}
    lengths = attention_mask.sum(dim=1)
    ends = pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    longest = int(lengths.max())
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
