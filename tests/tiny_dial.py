"""A tiny model with a dial, and its exported folder."""

from pathlib import Path

import torch

import tiny
import tiny_folder
from trimtab.models.identity_layer import identity_layer, insert_identity_layer
from trimtab.runs.exporting import export_dial, source_of


def expanded(kind: str = "llama_tied", **changes):
    """A model whose identity layer was changed, and the original one; both know the tokens of bytes."""
    changes = {"vocab_size": tiny_folder.VOCAB, "eos_token_id": 0, "bos_token_id": None, "pad_token_id": 0, **changes}
    original = tiny.model(kind, **{"max_position_embeddings": 512, **changes})
    model = insert_identity_layer(original)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for weight in identity_layer(model).parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    return model, original


def save(folder: Path, kind: str = "llama_tied", tokenizer=None, **changes) -> Path:
    """An ordinary folder with such a model, as a run writes it."""
    model, _ = expanded(kind, **changes)
    model.save_pretrained(folder)
    (tokenizer or tiny_folder.byte_tokenizer()).save_pretrained(folder)
    return folder


def export(folder: Path, kind: str = "llama_tied", recommended=None, **changes) -> Path:
    """The exported folder of such a model."""
    export_dial(source_of(save(folder / "trained", kind, **changes)), folder / "dial", recommended)
    return folder / "dial"
