"""Embedding rows for tokens that were added to a tokenizer after the model was trained."""

from typing import Any

import torch
from transformers import PreTrainedModel


def num_tokens(tokenizer: Any) -> int:
    """The highest id of a tokenizer, plus one."""
    return max(tokenizer.get_vocab().values()) + 1


def grow_embedding(model: PreTrainedModel, rows: int, seed: int) -> None:
    """Grow the embedding and the head to `rows` rows, in place. transformers draws new rows from a normal with the mean
    and covariance of the others."""
    if rows <= model.get_input_embeddings().num_embeddings:  # type: ignore[operator]
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.resize_token_embeddings(rows, mean_resizing=True)
