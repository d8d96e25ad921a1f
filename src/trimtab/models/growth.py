"""Embedding rows for tokens that were added to a tokenizer after the model was trained."""

from typing import Any

import torch
from transformers import PreTrainedModel


def num_tokens(tokenizer: Any) -> int:
    """The highest id of a tokenizer, plus one."""
    return max(tokenizer.get_vocab().values()) + 1


def grow_embedding(model: PreTrainedModel, rows: int, seed: int) -> None:
    """Give the embedding and the head `rows` rows, in place, where they have fewer.

    New rows are drawn as transformers does, around the mean of the others with their covariance.

    Args:
        seed: of the draw.
    """
    if rows <= model.get_input_embeddings().num_embeddings:  # type: ignore[operator]
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.resize_token_embeddings(rows, mean_resizing=True)
