"""Input limits of a model: token ids in its embedding, and its maximum number of positions."""

import copy
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from trimtab.common.errors import UserError
from trimtab.models.quantised import is_quantised

MOST_OFFSET = 8
"""rows that a table of positions may have beyond `max_position_embeddings`"""


class LimitError(UserError):
    """A prompt beyond a model's limits."""


@dataclass(frozen=True)
class Limits:
    """The inputs that a model can read."""

    vocab: int
    """rows of its embedding"""
    places: int | None
    """most tokens of a row if positions are a table; None if they are computed"""
    trained: int | None = None
    """length that it was trained for, if it can read longer rows"""


def of_model(model: PreTrainedModel) -> Limits:
    """Limits found from the model's own tables of positions, which have about `max_position_embeddings` rows.

    Such a table is another embedding than the tokens', a buffer (sines, or a mask of all pairs of positions) or a
    parameter. Rotary positions and linear biases are computed for any position and have no table.
    """
    if is_quantised(model):  # its weights are buffers, of any width
        plain = copy.deepcopy(model.config)
        vars(plain).pop("quantization_config")
        return of_config(plain, trust_remote_code=True)  # its code has run already
    tokens = model.get_input_embeddings()
    config = model.config.get_text_config(decoder=True)
    vocab = getattr(tokens, "num_embeddings", None) or config.vocab_size
    most = getattr(config, "max_position_embeddings", None)
    if not isinstance(most, int) or most < 1:
        return Limits(vocab, None)
    places = min(_tables(model, most, {tokens, model.get_output_embeddings()}), default=None)
    return Limits(vocab, places, None if places else most)


def _tables(model: PreTrainedModel, most: int, others: set[nn.Module | None]) -> Iterable[int]:
    """Positions of each table: embeddings and buffers [positions, width], masks [..., positions, positions], and
    parameters named after positions, since other weights may have that size by chance."""
    tokens = {module.num_embeddings for module in others if isinstance(module, nn.Embedding)}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Embedding) or module in others:
            continue
        if module.num_embeddings in tokens and not _POSITIONS.search(name):
            continue  # another embedding of the tokens
        if most <= module.num_embeddings <= most + MOST_OFFSET:
            yield module.num_embeddings - _offset(module)
    for _, buffer in model.named_buffers():
        if _is_table(buffer, most) or (buffer.ndim > 2 and buffer.shape[-2:] == (most, most)):
            yield most
    for name, parameter in model.named_parameters():
        if not name.endswith((".weight", ".bias")) and _POSITIONS.search(name) and _is_table(parameter, most):
            yield most


_POSITIONS = re.compile(r"(^|[._])(wpe|pos|pos_?(emb|enc)\w*|position\w*)($|[._])")
"""names of tables of positions"""


def _is_table(tensor: torch.Tensor, most: int) -> bool:
    """[positions, width] or [1, positions, width], perhaps with a few rows before the first position."""
    shape = tensor.shape[1:] if tensor.ndim == 3 and tensor.shape[0] == 1 else tensor.shape
    return len(shape) == 2 and most <= shape[0] <= most + MOST_OFFSET


def _offset(table: nn.Embedding) -> int:
    """Rows before the first position: OPT's and BART's offset, or those up to RoBERTa's padding."""
    own = getattr(table, "offset", None)
    if isinstance(own, int):
        return own
    return 0 if table.padding_idx is None else table.padding_idx + 1


def of_config(config: Any, *, trust_remote_code: bool = False) -> Limits:
    """Of the causal language model that a config describes, without its weights; computed once per config."""
    key = json.dumps([config.to_dict(), trust_remote_code, config.name_or_path], sort_keys=True, default=str)
    if key not in _OF_CONFIG:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            _OF_CONFIG[key] = of_model(AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code))
    return _OF_CONFIG[key]


_OF_CONFIG: dict[str, Limits] = {}


def check_prompts(
    prompts: Iterable[Sequence[int]], new: int, limits: Limits, tokenizer: Any, name: str, *, what: str = "prompt"
) -> list[str]:
    """Check prompts (ids) with up to `new` further tokens against a model's limits; returns notes for the user.

    Raises:
        LimitError: naming the first prompt with an unknown token, or that is too long; it is called `what`.
    """
    longest = 0
    for number, ids in enumerate(prompts, start=1):
        check_ids(ids, limits.vocab, tokenizer, name, f"{what} {number}")
        longest = max(longest, len(ids))
        if limits.places is not None and len(ids) + new > limits.places:
            raise LimitError(
                f"{what} {number} and its answer need {len(ids)} + {new} = {len(ids) + new} tokens, and {name} reads "
                f"at most {limits.places} (its number of positions); shorten the prompt or --max-new-tokens, "
                "or choose a model with a longer context"
            )
    return beyond(longest + new, limits, name)


def check_ids(ids: Iterable[int], vocab: int, tokenizer: Any, name: str, where: str) -> None:
    """Raise a LimitError for the first token outside an embedding of `vocab` rows."""
    if (over := next((token for token in ids if token >= vocab), None)) is not None:
        raise LimitError(f"{where} {token_beyond(over, vocab, tokenizer, name)}")


def token_beyond(token: int, vocab: int, tokenizer: Any, name: str) -> str:
    """The end of a message about a token outside an embedding."""
    return (
        f"has the token {tokenizer.convert_ids_to_tokens(token)!r} (id {token}), which is outside the embedding of "
        f"{name} ({vocab} rows); remove it, use the tokenizer that the model came with, or add a row for the token "
        "by training with models.resize: true"
    )


def beyond(length: int, limits: Limits, name: str) -> list[str]:
    """A note for rows longer than those that the model was trained on."""
    if limits.trained is None or length <= limits.trained:
        return []
    return [
        f"up to {length} tokens are read, but {name} was trained for {limits.trained} (max_position_embeddings): its "
        "behaviour on later ones was never trained"
    ]
