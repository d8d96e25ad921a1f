"""The output head of a model on disk, without the rest of the model."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from trimtab.common import fingerprint
from trimtab.common.errors import UserError
from trimtab.common.files import DataError, read_json, write_atomic
from trimtab.core import Head
from trimtab.models.forward import KNOWN, UnsupportedModel, resolve_head

WEIGHTS, CONFIG, FACTS = "head.safetensors", "config.json", "head.json"
HEAD_FILES = (WEIGHTS, CONFIG, FACTS)
FACT_KEYS = frozenset({"linear", "path", "vocab_size", "scale", "softcap", "masks", "sha256"})


class HeadError(UserError):
    """A stored head that is not what was written."""


class StoredTeacher(nn.Module):
    """What a run reads of a teacher that is not there: how many ids it knows, and its head, if that is stored.

    Args:
        vocab_size: rows of its head.
        module: from hidden states to raw logits; None if only numbers are read.
        scale, softcap, masks: see `trimtab.core.Head`.
    """

    def __init__(
        self,
        vocab_size: int,
        module: nn.Module | None = None,
        scale: float = 1.0,
        softcap: float | None = None,
        masks: bool = False,
    ):
        super().__init__()
        self.config: Any = PreTrainedConfig()
        self.config.vocab_size = vocab_size
        self.module, self.scale, self.softcap, self.masks = module, scale, softcap, masks
        self.eval().requires_grad_(False)

    def head(self) -> Head:
        """As `resolve_head` of the model that it was; cropped where `crop_to` says so."""
        assert self.module is not None
        known = getattr(self, KNOWN, None)
        size = self.config.vocab_size if known is None else known
        return Head(self.module, size, self.scale, self.softcap, masks=self.masks, cropped=known is not None)

    @property
    def dtype(self) -> torch.dtype:
        """Of its head."""
        return next(self.parameters()).dtype

    def forward(self, hidden: Tensor) -> Tensor:
        return self.head()(hidden)


def store_head(model: PreTrainedModel, folder: Path, write: Any) -> None:
    """Write the head of a model.

    Args:
        write: write(path, tensors) of a safetensors file.
    """
    head = resolve_head(model)
    assert isinstance(head.module, nn.Module)
    plain = type(head.module) is nn.Linear
    facts: dict[str, Any] = {
        "linear": plain,
        "path": [] if plain else list(getattr(model, "_trimtab_head", ())),
        "vocab_size": model.config.get_text_config().vocab_size,
        "scale": head.scale,
        "softcap": head.softcap,
        "masks": head.masks,
    }
    # .clone(): a weight that is tied to the embedding, or part of a larger table, is stored alone
    write(folder / WEIGHTS, {name: value.detach().cpu().clone() for name, value in head.module.state_dict().items()})
    write_atomic(folder / CONFIG, model.config.to_json_string(use_diff=False))
    facts["sha256"] = fingerprint.sha256(folder / WEIGHTS)
    write_atomic(folder / FACTS, json.dumps(facts, indent=1) + "\n")


def head_fault(folder: Path) -> str:
    """What is wrong with a stored head; empty if it is what was written."""
    for name in HEAD_FILES:
        if not (folder / name).is_file():
            return f"{folder / name} is gone"
    try:
        facts = read_json(folder / FACTS)
    except DataError:
        facts = None
    if not isinstance(facts, dict) or not facts.keys() >= FACT_KEYS:
        return f"{folder / FACTS} is torn"
    if facts["sha256"] != fingerprint.sha256(folder / WEIGHTS):
        return f"{folder / WEIGHTS} is damaged: its bytes are not those that were written"
    return ""


def load_head(folder: Path) -> StoredTeacher:
    """The head that `store_head` wrote.

    Raises:
        HeadError: if it is not what was written.
        UnsupportedModel: if it is not a linear layer, and the model's class cannot be built to hold it.
    """
    if fault := head_fault(folder):
        raise HeadError(f"{fault}; run the command that wrote it again, which writes the head anew")
    facts = read_json(folder / FACTS)
    weights = load_file(folder / WEIGHTS)
    module = _linear(weights) if facts["linear"] else _built(folder, facts["path"])
    module.load_state_dict(weights, assign=True)
    return StoredTeacher(facts["vocab_size"], module, facts["scale"], facts["softcap"], facts["masks"])


def head_bytes(folder: Path) -> int:
    """Of the stored head; 0 if there is none."""
    path = folder / WEIGHTS
    return path.stat().st_size if path.is_file() else 0


def _linear(weights: dict[str, Tensor]) -> nn.Module:
    rows, width = weights["weight"].shape
    return nn.Linear(width, rows, bias="bias" in weights, device="meta")


def _built(folder: Path, path: list[str]) -> nn.Module:
    """The modules of the head, as the model's class makes them."""
    try:
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    except (ValueError, KeyError, ImportError, OSError) as error:
        said = str(error).partition("\n")[0]
        raise UnsupportedModel(
            f"{folder}: its head is not a linear layer, and its model cannot be built without its code ({said}); "
            "use precompute --teacher topk"
        ) from error
    model._trimtab_head = tuple(path)
    module = resolve_head(model).module
    assert isinstance(module, nn.Module)
    return module
