"""Tiny encoders with a head, a tokenizer of words, and labelled rows: what tests of classification share."""

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from trimtab.core import Labels
from trimtab.models.classifier import settings_of

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(20)), "good", "bad", "fine", "spur")
CLASSES = ("bad", "fine", "good")
_SIZES = {
    "vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 40, "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "bert": _SIZES,
    "roberta": {**_SIZES, "type_vocab_size": 1, "max_position_embeddings": 42},
    "electra": {**_SIZES, "embedding_size": 8},
    "deberta": {**_SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 20},
    "deberta-v2": {
        **_SIZES, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 20,
        "position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm",
    },
    "distilbert": {
        "vocab_size": len(WORDS), "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24,
        "max_position_embeddings": 40, "pad_token_id": 0, "initializer_range": 0.3,
    },
}  # fmt: skip
_DECODER = {
    "vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 24, "max_position_embeddings": 40, "initializer_range": 0.3,
    "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip
DECODERS: dict[str, dict[str, Any]] = {
    "llama": _DECODER,
    "qwen2": _DECODER,
    "gpt2": {
        "vocab_size": len(WORDS), "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40, "initializer_range": 0.3,
        "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
    },
}  # fmt: skip
"""models that read an answer at a text's last token"""
DROPOUTS = (
    "hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "resid_pdrop", "embd_pdrop",
    "attn_pdrop",
)  # fmt: skip


@cache
def _made(kind: str, outputs: int, seed: int, dropout: float, layers: int, head: bool) -> Any:
    labels = Labels(() if outputs == 1 else tuple(f"LABEL_{i}" for i in range(outputs)))
    sizes = dict({**KINDS, **DECODERS}[kind])
    sizes[{"distilbert": "n_layers", "gpt2": "n_layer"}.get(kind, "num_hidden_layers")] = layers
    rates = dict.fromkeys(DROPOUTS, dropout)
    config = AutoConfig.for_model(kind, **sizes, **rates, **settings_of(labels))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        bare = AutoModelForCausalLM if kind in DECODERS else AutoModel
        auto = AutoModelForSequenceClassification if head else bare
        return auto.from_config(config, attn_implementation="eager").eval()


def classifier(
    kind: str = "bert", outputs: int = 2, seed: int = 0, *, dropout: float = 0.0, layers: int = 2, head: bool = True
) -> Any:
    """In eval mode, with eager attention."""
    return copy.deepcopy(_made(kind, outputs, seed, dropout, layers, head))


def inputs(outputs: int = 2, width: int = 7) -> dict[str, Tensor]:
    """Three rows of unequal lengths."""
    ids = torch.tensor([[2, 5, 6, 7, 24, 8, 3], [2, 9, 3, 0, 0, 0, 0], [2, 10, 25, 11, 3, 0, 0]])
    ids = torch.nn.functional.pad(ids, (0, width - 7))
    labels = torch.tensor([0.5, -1.0, 2.0]) if outputs == 1 else torch.tensor([1, 0, outputs - 1])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels, "row_id": torch.arange(3)}


def pick(batch: dict[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in batch.items()}


def word_tokenizer(words: tuple[str, ...] = WORDS) -> PreTrainedTokenizerFast:
    """One token a word, [CLS] before and [SEP] behind each text."""
    built = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    built.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=built, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def save(folder: Path, kind: str = "bert", outputs: int = 2, seed: int = 0, **how: Any) -> str:
    """A model and its tokenizer; returns its path."""
    classifier(kind, outputs, seed, **how).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return str(folder)


def rows(count: int, task: str = "two", start: int = 0) -> list[dict[str, Any]]:
    """Rows of unequal lengths whose label is said by one word: of two classes, three, or a number."""
    found = []
    for i in range(start, start + count):
        filler = [f"w{(i * 7 + j * 3) % 20}" for j in range(i % 5 + 2)]
        number = i % 3 if task != "two" else i % 2 * 2
        filler.insert(i % len(filler), CLASSES[number])
        label = {"two": number // 2, "three": CLASSES[number], "number": number / 2 + 0.25}[task]
        found.append({"sentence": " ".join(filler), "label": label})
    return found


def write(path: Path, made: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return str(path)


def minilm() -> str:
    """The name of the builtin encoder; skips a test where its wheel is not installed."""
    from trimtab.models.builtin import wheel_file

    if wheel_file("minilm-l6") is None:
        pytest.skip("the wheel of minilm-l6 is not installed")
    return "minilm-l6"
