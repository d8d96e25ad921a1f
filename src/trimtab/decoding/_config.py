"""The complete config of every generation, made only of the given settings; and the one place that calls `generate`.

transformers takes unset fields from the checkpoint's generation config: a repetition penalty there would apply under
every strategy. Here each field is given or switched off, and the model's config is hidden while `generate` runs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.stopping_criteria import StopStringCriteria

from trimtab.decoding._batching import alone, batches, cache_is_right, keeps, strictest
from trimtab.decoding._draws import Uniform, are_drawn, drawing
from trimtab.decoding._early_exit import early_exit, early_exit_arguments
from trimtab.models.ends import end_tokens
from trimtab.models.identity_layer import unwrapped
from trimtab.models.masters import inner

CALLERS = frozenset({
    "max_length", "max_new_tokens", "num_return_sequences", "output_attentions", "output_hidden_states",
    "output_scores", "output_logits", "return_dict_in_generate", "pad_token_id", "bos_token_id", "eos_token_id",
    "decoder_start_token_id", "use_cache", "max_cache_len", "cache_config", "compile_config", "disable_compile",
    "continuous_batching_config", "transformers_version", "_from_model_config",
})  # fmt: skip
"""Fields that affect length, output format and computation, but not which token is chosen."""
BY_ROW = frozenset({
    "do_sample", "temperature", "top_k", "top_p", "top_h", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff",
    "suppress_tokens", "stop_strings", "max_time", "cache_implementation", "remove_invalid_values",
    "renormalize_logits", *CALLERS,
})  # fmt: skip
"""Fields under which a row's next token only depends on its own scores, so that other rows may leave the batch."""


def fields() -> dict[str, Any]:
    """Every field of a generation config, with the value that switches it off."""
    known = {name: None for name in vars(GenerationConfig()) if name not in ("_original_object_hash",)}
    return {**known, **GenerationConfig._get_default_generation_params(), "max_length": None, "top_k": 0}


def switched_off() -> dict[str, Any]:
    """The fields that affect which token is chosen, each switched off; see `fields`."""
    return {name: value for name, value in fields().items() if name not in CALLERS}


def complete(
    asked: Mapping[str, Any], ends: Sequence[int], pad: int | None, max_new_tokens: int, own: Any = None
) -> GenerationConfig:
    """A config in which every field is set: those given in `asked`, the rest switched off, or (`decoding model`) as in
    the generation config of the model `own`."""
    theirs = {} if own is None else _set(own.generation_config)
    ours = {name: value for name, value in fields().items() if name in CALLERS} | {"use_cache": True}
    found = {**fields(), **theirs, **ours, **asked, "max_new_tokens": max_new_tokens}
    found |= {"eos_token_id": list(ends) or None, "pad_token_id": pad if pad is not None else next(iter(ends), None)}
    found["top_k"] = 0 if found["top_k"] is None else found["top_k"]  # None would become transformers' 50
    config = GenerationConfig()
    for name, value in found.items():
        setattr(config, name, value)
    return config


def _set(config: GenerationConfig) -> dict[str, Any]:
    """A checkpoint's settings, completed with the defaults of transformers."""
    own = {name: value for name, value in vars(config).items() if value is not None and not name.startswith("_")}
    return {**GenerationConfig._get_default_generation_params(), **own}


def split(how: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of `generate`, split into fields of its config and others."""
    known = fields()
    return {k: v for k, v in how.items() if k in known}, {k: v for k, v in how.items() if k not in known}


def described(config: GenerationConfig) -> str:
    """The settings of a config that differ from the defaults of transformers, in words, sorted."""
    defaults = {**fields(), "top_k": GenerationConfig._get_default_generation_params()["top_k"]}
    defaults |= {"max_new_tokens": None, "use_cache": True}
    shown = {}
    for name, value in vars(config).items():
        if name in ("transformers_version", "_from_model_config", "_original_object_hash", "bos_token_id"):
            continue
        silent = name == "top_k" and not config.do_sample
        off = (value is None or value is False) and not defaults.get(name)
        if value != defaults.get(name) and not silent and not off:
            shown[name] = value
    return ", ".join(f"{name}={shown[name]}" for name in sorted(shown)) or "nothing"


def config_of(
    model: Any, tokenizer: Any, how: Mapping[str, Any], max_new_tokens: int, *, own: bool = False
) -> GenerationConfig:
    """The complete config of `generate` with these arguments."""
    asked, _ = split(how)
    if not keeps(model):
        asked["use_cache"] = False
    ends, pad = end_tokens(tokenizer, model), tokenizer.pad_token_id
    return complete(asked, ends, pad, max_new_tokens, own=inner(model) if own else None)


def generate(
    model: Any,
    tokenizer: Any,
    inputs: Mapping[str, Tensor],
    max_new_tokens: int,
    *,
    own: bool = False,
    leave: bool = False,
    each: Callable[[list[int]], Mapping[str, Any]] | None = None,
    uniform: Uniform | None = None,
    **how: Any,
) -> Tensor:
    """[B, T + new tokens]: continuations of prompts; only the settings given here apply.

    Args:
        inputs: `input_ids` and `attention_mask` [B, T], padded on the left.
        own: the checkpoint's generation config fills in what is not given.
        leave: finished rows may leave the batch if that is faster (and nothing depends on other rows).
        each: further arguments for some rows, by their indices.
        uniform: what single tokens are drawn with, by row of `inputs`; by default torch's generator.
        how: fields of the generation config, and other arguments of `model.generate`.
    """
    config = config_of(model, tokenizer, how, max_new_tokens, own=own)
    _, others = split(how)
    return run(model, config, inputs, tokenizer=tokenizer, leave=leave, each=each, uniform=uniform, **others)


def run(
    model: Any,
    config: GenerationConfig,
    inputs: Mapping[str, Tensor],
    *,
    tokenizer: Any = None,
    leave: bool = False,
    each: Callable[[list[int]], Mapping[str, Any]] | None = None,
    call: Callable[..., Any] | None = None,
    uniform: Uniform | None = None,
    **others: Any,
) -> Tensor:
    """`generate` with a config of `complete`, in batches and with a cache that are safe for the model, see `_batching`.

    Args:
        model, inputs, tokenizer, leave, each, uniform: as in `generate`.
        call: `model.generate`, if it has another name.
        others: arguments of `model.generate` that are not fields of its config.
    """
    config = deepcopy(config)
    if config.stop_strings is not None:  # a custom loop gets no tokenizer
        criteria = StopStringCriteria(tokenizer=tokenizer, stop_strings=config.stop_strings)
        others["stopping_criteria"] = StoppingCriteriaList([*others.get("stopping_criteria", ()), criteria])
        config.stop_strings = None
    if not all(cache_is_right(one, 1, config.num_beams or 1) for one in read_by(model, others)):
        config.use_cache = False
    if leave and "custom_generate" not in others and each is None and may_leave(config, others):
        others |= early_exit_arguments(inputs["input_ids"].device)
    groups, found = batches(strictest(read_by(model, others)), inputs), []
    with alone(model):
        for rows, given in groups:
            more = {**others, **(each(rows) if each else {})}
            with _drawn(model, config, uniform, rows, given["input_ids"], more):
                output = (call or model.generate)(**given, generation_config=config, **more)
            found.append(output[:, given["input_ids"].size(1) :])
    copies = found[0].size(0) // len(groups[0].places)
    places = [[row * copies + i for row in rows for i in range(copies)] for rows, _ in groups]
    ids = inputs["input_ids"].repeat_interleave(copies, dim=0)
    return torch.cat([ids, _joined(found, places, config).to(ids.device)], dim=1)


@contextmanager
def _drawn(
    model: Any, config: GenerationConfig, uniform: Uniform | None, rows: Sequence[int], ids: Tensor,
    others: dict[str, Any],
) -> Iterator[None]:  # fmt: skip
    """Within, `generate` with `others` draws the tokens of these rows with their numbers, if it draws single ones."""
    if uniform is None or not are_drawn(config) or others.get("custom_generate") not in (None, early_exit):
        yield
        return
    places = torch.tensor(rows, device=ids.device)

    def of_batch(some: Tensor, position: int) -> Tensor:
        return uniform(places[some.to(ids.device)], position)

    if "custom_generate" in others:
        others["uniform"] = of_batch
        yield
        return
    with drawing(model, of_batch, ids.size(1)):
        yield


def read_by(model: Any, others: Mapping[str, Any]) -> list[Any]:
    """The models that read the prompts: this one, and with `dera` the one that is mixed with it."""
    return [model, *([unwrapped(others["aligned"])] if isinstance(others.get("aligned"), nn.Module) else [])]


def _joined(parts: Sequence[Tensor], groups: Sequence[list[int]], config: GenerationConfig) -> Tensor:
    """The new tokens of all rows in their order, [B, most new tokens]."""
    if len(parts) == 1:
        return parts[0]
    pad = 0 if config.pad_token_id is None else config.pad_token_id
    width = max(part.size(1) for part in parts)
    wide = torch.cat([nn.functional.pad(part, (0, width - part.size(1)), value=pad) for part in parts])
    order = torch.tensor([row for rows in groups for row in rows], device=wide.device)
    return wide[order.argsort()]


def may_leave(config: GenerationConfig, others: Mapping[str, Any]) -> bool:
    """Whether every row's next token only depends on its own scores, so that rows may leave the batch."""
    if others.keys() & {"logits_processor", "streamer", "past_key_values"} or (config.num_beams or 1) > 1:
        return False
    neutral = fields()
    return all(getattr(config, name, None) == value for name, value in neutral.items() if name not in BY_ROW)


def as_processors(
    model: Any, config: GenerationConfig, inputs: Mapping[str, Tensor]
) -> tuple[GenerationConfig, LogitsProcessorList]:
    """A config that only samples, and the processors that `generate` would build from the rest of this one."""
    kept = {name: getattr(config, name) for name in ("do_sample", "stop_strings", "max_time", "use_cache")}
    bare = complete(kept, config.eos_token_id or (), config.pad_token_id, config.max_new_tokens or 1)
    ids, whole = inputs["input_ids"], deepcopy(config)
    whole.max_length = ids.size(1) + bare.max_new_tokens
    model._prepare_special_tokens(whole, device=ids.device)
    made = model._get_logits_processor(
        generation_config=whole, input_ids_seq_length=ids.size(1), encoder_input_ids=ids, device=ids.device,
        logits_processor=LogitsProcessorList(), model_kwargs={"attention_mask": inputs.get("attention_mask")},
    )  # fmt: skip
    return bare, made
