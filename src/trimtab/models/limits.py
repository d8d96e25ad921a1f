"""Input limits of a model: token ids in its embedding, and its maximum number of positions."""

import copy
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from trimtab.common.errors import UserError
from trimtab.models.quantised import is_quantised

MOST_OFFSET = 8
"""rows that a table of positions may have beyond the places that its config tells"""


class LimitError(UserError):
    """A prompt beyond a model's limits."""


@dataclass(frozen=True)
class Limits:
    """Of a model."""

    vocab: int
    """rows of its embedding; an id from here on is none"""
    places: int | None
    """most tokens of a row, where positions are a table of the model; None where any number can be computed"""
    trained: int | None = None
    """tokens of the longest rows that it was trained for, where more can be read and were not seen"""


def of_model(model: PreTrainedModel) -> Limits:
    """Found in what the model is made of: a table of positions has as many rows as its config tells places.

    Such a table is an embedding that is not the tokens', a buffer (sines, or a mask of all pairs of places) or a
    parameter of its own. Rotary positions and linear biases are computed for any place; no table of them is kept.
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
    """Places of each table. A size that a weight has in common with the places says nothing: of embeddings and buffers
    only [places, width] and masks [.., places, places] count, of parameters only those with the name of positions."""
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
"""in the name of a table of positions, whoever wrote the model"""


def _is_table(tensor: torch.Tensor, most: int) -> bool:
    """[places, width], or [1, places, width]; a few rows may stand before the first place."""
    shape = tensor.shape[1:] if tensor.ndim == 3 and tensor.shape[0] == 1 else tensor.shape
    return len(shape) == 2 and most <= shape[0] <= most + MOST_OFFSET


def _offset(table: nn.Embedding) -> int:
    """Rows before the first place: OPT's and BART's own number of them, or those up to RoBERTa's padding."""
    own = getattr(table, "offset", None)
    if isinstance(own, int):
        return own
    return 0 if table.padding_idx is None else table.padding_idx + 1


def of_config(config: Any, *, trust_remote_code: bool = False) -> Limits:
    """Of the causal language model that a config describes, without its weights."""
    return _of_config(_Config(config, trust_remote_code))


class _Config:
    """A config by its content, so that what was found is found once."""

    def __init__(self, config: Any, trust: bool):
        self.config, self.trust = config, trust
        self.key = json.dumps([config.to_dict(), trust, config.name_or_path], sort_keys=True, default=str)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Config) and self.key == other.key


@lru_cache(maxsize=64)
def _of_config(of: _Config) -> Limits:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return of_model(AutoModelForCausalLM.from_config(of.config, trust_remote_code=of.trust))


def check_prompts(
    prompts: Iterable[Sequence[int]], new: int, limits: Limits, tokenizer: Any, name: str, *, what: str = "prompt"
) -> list[str]:
    """Check prompts against a model's limits.

    Args:
        prompts: ids of each.
        new: most tokens of an answer.
        limits: of the model.
        tokenizer: for the token's name.
        name: of the model.
        what: what a prompt is called.

    Returns:
        What the user should know.

    Raises:
        LimitError: naming the first prompt with a token that the model does not know, or that is too long.
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
    """Whether an embedding holds all tokens.

    Raises:
        LimitError: naming the first that it does not.
    """
    if (over := next((token for token in ids if token >= vocab), None)) is not None:
        raise LimitError(f"{where} {token_beyond(over, vocab, tokenizer, name)}")


def token_beyond(token: int, vocab: int, tokenizer: Any, name: str) -> str:
    """Words for a token that an embedding does not hold, and the way out."""
    return (
        f"has the token {tokenizer.convert_ids_to_tokens(token)!r} (id {token}), which is outside the embedding of "
        f"{name} ({vocab} rows); remove it, use the tokenizer that the model came with, or add a row for the token "
        "by training with models.resize: true"
    )


def beyond(length: int, limits: Limits, name: str) -> list[str]:
    """What to say of rows of this length: positions that were never seen in training are read all the same."""
    if limits.trained is None or length <= limits.trained:
        return []
    return [
        f"up to {length} tokens are read, but {name} was trained for {limits.trained} (max_position_embeddings): its "
        "behaviour on later ones was never trained"
    ]
