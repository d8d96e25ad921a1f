"""How prompts can be batched for a model so that padding, other rows and the cache do not change its output.

Attention masks left padding, and keys and values are kept by row. With states that are carried from token to token, as
in state-space and recurrent models, some implementations treat padding as text and some mix up rows. Each model is
probed once, with two prompts and a few tokens.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import Parameter, signature
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from trimtab.decoding._prefill import grows
from trimtab.models.masters import inner
from trimtab.models.probing import eval_mode

LOGGER = logging.getLogger("trimtab")
SHORT, LONG, NEW = 3, 9, 3
"""tokens of the two prompts, and new ones"""
Keeps = Literal["rows", "a row", ""]
_PADS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
_KEEPS: WeakKeyDictionary[Any, Keeps] = WeakKeyDictionary()


class Batch(NamedTuple):
    places: list[int]
    inputs: dict[str, Tensor]


def batches(model: Any, inputs: Mapping[str, Tensor]) -> list[Batch]:
    """Prompts in batches that are safe for the model: all together; or, if left padding would change its output,
    grouped by length without padding; or, if its cache only supports one row, one by one."""
    mask = inputs.get("attention_mask")
    given = {k: v for k, v in inputs.items() if k != "attention_mask" or takes(model, k)}
    rows = list(range(inputs["input_ids"].size(0)))
    lengths = [inputs["input_ids"].size(1)] * len(rows) if mask is None else mask.sum(dim=1).tolist()
    if keeps(model) == "a row":
        groups = {row: [row] for row in rows}
    elif mask is None or bool(mask.all()) or pads_left(model):
        return [Batch(rows, given)]
    else:
        groups = {length: [row for row in rows if lengths[row] == length] for length in lengths}
    return [Batch(some, {k: v[some, -lengths[some[0]] :] for k, v in given.items()}) for some in groups.values()]


def strictest(models: Sequence[Any]) -> Any:
    """Of models that read the same prompts, the one with the most restricted batching."""
    return models[0] if len(models) == 1 else min(models, key=lambda one: (keeps(one) != "a row", pads_left(one)))


def pads_left(model: Any) -> bool:
    """Whether left padding leaves the output unchanged."""
    one = inner(model)
    if getattr(one.config.get_text_config(), "index_topk", None):
        return False  # padding takes up some of the tokens that sparse attention selects
    if one not in _PADS:
        short, long = _prompts(one)
        padded = torch.stack([long, torch.cat([long.new_zeros(LONG - SHORT), short])])
        mask = torch.ones_like(padded)
        mask[1, : LONG - SHORT] = 0
        cached = keeps(one) == "rows"
        _PADS[one] = takes(one, "attention_mask") and _same(
            _logits(one, short[None], use_cache=False), _logits(one, padded, mask, use_cache=cached)
        )
    return _PADS[one]


def keeps(model: Any) -> Keeps:
    """What its cache supports: "rows", "a row" if rows of a batch get mixed up, or nothing at all."""
    one = inner(model)
    if one not in _KEEPS:
        _KEEPS[one] = "rows" if keeps_keys_and_values(one) else _try_cache(one)
        if not _KEEPS[one]:
            warn_without_cache(one)
    return _KEEPS[one]


def cache_is_right(model: Any, num_prompts: int, beams: int) -> bool:
    """Whether its cache is correct for this many prompts at a time, and for beams, which are reordered."""
    return keeps(model) == "rows" or (keeps(model) == "a row" and num_prompts <= 1 and beams == 1)


def warn_without_cache(model: Any) -> None:
    LOGGER.warning(
        f"{type(model).__name__}: its cache gives wrong results here, so generation recomputes the whole text for each "
        "token, without a cache: slower, but correct"
    )


def keeps_keys_and_values(model: Any) -> bool:
    """Whether the cache holds only keys and values, which work in all models of transformers and are not probed."""
    return model._supports_default_dynamic_cache() and takes(model, "past_key_values") and grows(
        DynamicCache(config=model.config.get_text_config(decoder=True))
    )  # fmt: skip


def _try_cache(model: Any) -> Keeps:
    short, _ = _prompts(model)
    whole = _logits(model, short[None], use_cache=False)
    if not _same(whole, _logits(model, short[None], use_cache=True)):
        return ""
    return "rows" if _same(whole, _logits(model, short[None].repeat(2, 1), use_cache=True)) else "a row"


def _prompts(model: Any) -> tuple[Tensor, Tensor]:
    size = model.config.get_text_config().vocab_size
    long = torch.randint(size, (LONG,), generator=torch.Generator().manual_seed(0)).to(model.device)
    return long[:SHORT], long


@torch.no_grad()
def _logits(model: Any, ids: Tensor, mask: Tensor | None = None, *, use_cache: bool) -> list[Tensor] | None:
    """[V] float32 of the last row at each new token, up to the first ambiguous one; None if it fails."""
    config = GenerationConfig(
        max_new_tokens=NEW, do_sample=False, pad_token_id=0, use_cache=use_cache, output_logits=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    generate = type(model).generate  # not an override on this instance
    given = {"attention_mask": torch.ones_like(ids) if mask is None else mask} if takes(model, "attention_mask") else {}
    try:
        with eval_mode(model), alone(model):
            found = generate(model, input_ids=ids, **given, generation_config=config)
    except (RuntimeError, ValueError, AttributeError, IndexError):
        return None  # such as a cache of another shape than the model's own states
    return [step[-1].float() for step in found.logits]


def _same(wanted: list[Tensor] | None, found: list[Tensor] | None) -> bool:
    """Whether logits are equal up to rounding, as long as the same tokens were chosen."""
    if wanted is None or found is None:
        return False
    for one, other in zip(wanted, found):
        coarse = bool((one.bfloat16().float() == one).all()) or bool((one.half().float() == one).all())
        if (one - other).abs().max() > (5e-2 if coarse else 1e-3) * one.abs().max():
            return False
        if one.argmax() != other.argmax():  # nearly equal, so that the texts differ from here on
            return True
    return True


@contextmanager
def alone(model: Any) -> Iterator[None]:
    """A context that hides the model's own generation config."""
    holders = [part for part in model.modules() if "generation_config" in vars(part)]
    configs = [part.generation_config for part in holders]
    for part in holders:
        part.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for part, config in zip(holders, configs):
            part.generation_config = config


def takes(model: Any, name: str) -> bool:
    """Whether its forward accepts an argument of this name."""
    parameters = signature(inner(model).forward).parameters
    return name in parameters or any(one.kind is Parameter.VAR_KEYWORD for one in parameters.values())
