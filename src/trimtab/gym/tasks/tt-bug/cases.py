"""Batches for the losses, and what trimtab's own objectives make of them."""

from collections.abc import Sequence
from math import isclose
from typing import Any

import torch
from torch import Tensor

from trimtab.core.batch import TokenBatch
from trimtab.objectives.divergence import forward_kl
from trimtab.objectives.preference import dpo_loss

EACH = 3
"""batches of a loss, ordinary and extreme ones"""


def cases(names: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """Batches of each loss, ordinary and extreme ones."""
    draw = torch.Generator().manual_seed(seed)
    return [_case(name, hard, draw) for name in names for hard in (False, True) for _ in range(EACH)]


def _case(name: str, hard: bool, draw: torch.Generator) -> dict[str, Any]:
    rows, length = (4, int(torch.randint(7, 12, (), generator=draw)))
    vocab = 300 if hard and name == "sft" else 13
    scale = {"sft": 8.0, "dpo": 200.0}.get(name, 2.0) if hard else 2.0
    dtype = torch.bfloat16 if hard and name == "sft" else torch.float32
    number = 1 if name == "sft" else 2
    tensors = [(torch.randn(rows, length, vocab, generator=draw) * scale).to(dtype) for _ in range(number)]
    if hard and name == "distil":
        excluded = torch.rand(rows, length, vocab, generator=draw) < 0.3
        tensors = [one.masked_fill(excluded, -torch.inf) for one in tensors]
    labels = _labels(rows, length, vocab, draw)
    tokens = int((labels[:, 1:] >= 0).sum()) + int(torch.randint(9, (), generator=draw))
    rest = {"sft": [tokens], "distil": [tokens, float(torch.randint(1, 4, (), generator=draw))], "dpo": [0.3]}[name]
    return {
        "name": name, "hard": hard, "dtype": str(dtype).removeprefix("torch."), "tensors": tensors, "labels": labels,
        "rest": rest,
    }  # fmt: skip


def _labels(rows: int, length: int, vocab: int, draw: torch.Generator) -> Tensor:
    """Prompts of different lengths, answers, and padding behind some."""
    labels = torch.randint(vocab, (rows, length), generator=draw)
    for row in range(rows):
        labels[row, : int(torch.randint(1, 4, (), generator=draw))] = -100
        labels[row, length - int(torch.randint(3, (), generator=draw)) :] = -100
    return labels


def _wanted(case: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
    """Value and gradient of the first logits, by trimtab."""
    first = case["tensors"][0].clone().requires_grad_()
    others = {f"other{n}": one for n, one in enumerate(case["tensors"][1:])}
    labels, rest = case["labels"], case["rest"]
    batch = TokenBatch.align(first, labels, others)
    if case["name"] == "sft":
        value = -batch.logprobs().sum() / rest[0]
    elif case["name"] == "distil":
        p, q = ((batch.signals[one] / rest[1]).log_softmax(-1) for one in ("other0", "policy"))
        value = rest[1] ** 2 * forward_kl(q, p).sum() / rest[0]
    else:
        ratios = batch.logprobs() - batch.logprobs(of="other0")
        sums = torch.zeros(len(labels)).index_add(0, batch.row, ratios)
        value = dpo_loss(sums[0::2], sums[1::2], rest[0]).mean()
    (gradient,) = torch.autograd.grad(value, [first])
    return value.detach(), [gradient.float(), *(torch.zeros(0) for _ in others)]


def right(case: dict[str, Any], found: Any) -> bool:
    """Whether a value and its gradients are those of trimtab; a teacher's or reference's is none or 0."""
    value, gradients = _wanted(case)
    if not isinstance(found, dict) or not isinstance(found.get("value"), float):
        return False
    try:
        given = [torch.tensor(one, dtype=torch.float32) for one in found["gradients"]]
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError):
        return False
    if len(given) != len(gradients) or not isclose(found["value"], value.item(), rel_tol=2e-4, abs_tol=1e-6):
        return False
    near = 1e-2 if case["dtype"] == "bfloat16" else 1e-3
    return all(
        torch.allclose(one, wanted.flatten(), rtol=near, atol=1e-5) if wanted.numel() else not one.any()
        for one, wanted in zip(given, gradients, strict=True)
    )
