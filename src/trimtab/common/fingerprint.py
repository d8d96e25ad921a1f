"""Fingerprints: short hashes of the exact content of models, tokenizers and data."""

import hashlib
import json
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.common.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

_LENGTH = 16


def of_model(model: "nn.Module") -> str:
    """Of every byte of a model's weights, their names and dtypes."""
    import torch

    digest = hashlib.blake2b(digest_size=_LENGTH // 2)
    for name, kept in sorted(model.state_dict().items()):
        tensor: Any = _read(model, name, kept)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def check_model(model: "nn.Module", expected: str, name: str, error: type[UserError]) -> None:
    """Raise `error` if a worker has loaded another model under a name than the command that started it."""
    if (found := of_model(model)) != expected:
        raise error(
            f"{name} is another model on {socket.gethostname()} ({found}) than where the command runs ({expected}); "
            "name one folder that all machines share"
        )


def _read(model: "nn.Module", name: str, tensor: "torch.Tensor") -> "torch.Tensor":
    """A weight, fetched if a device map has offloaded it."""
    if tensor.device.type != "meta":
        return tensor
    owner, _, own = name.rpartition(".")
    hook: Any = model.get_submodule(owner)._hf_hook
    kept = next(one.weights_map for one in (hook, *getattr(hook, "hooks", ())) if getattr(one, "weights_map", None))
    return kept[own].to(tensor.dtype)


def of_tokenizer(tokenizer: Any) -> str:
    """Of a tokenizer's vocabulary and special tokens."""
    return of_values([sorted(tokenizer.get_vocab().items()), tokenizer.special_tokens_map])


def of_text(text: str | None) -> str:
    return hashlib.blake2b((text or "").encode(), digest_size=_LENGTH // 2).hexdigest()


def of_files(paths: Iterable[Path]) -> str:
    """Of every byte of these files, in this order."""
    digest = hashlib.blake2b(digest_size=_LENGTH // 2)
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{len(content)} ".encode() + content)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """Of the bytes of a large file, as the command sha256sum prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_values(values: Any) -> str:
    """Of a JSON value."""
    return of_text(json.dumps(values, sort_keys=True, default=str))


def of_each(values: Iterable[Any]) -> str:
    """Of a sequence of JSON values, one at a time."""
    digest = hashlib.blake2b(digest_size=_LENGTH // 2)
    for value in values:
        digest.update(json.dumps(value, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def of_rows(rows: Iterable[dict[str, Any]]) -> str:
    """Of prepared rows: ids, tokens and labels, then rejected answers and columns if any."""
    digest = hashlib.blake2b(digest_size=_LENGTH // 2)
    first = ("row_id", "input_ids", "labels")
    for row in rows:
        digest.update(json.dumps([row[key] for key in (*first, *sorted(row.keys() - set(first)))]).encode())
    return digest.hexdigest()
