"""Trains a network here. The loss runs in a sandbox and sees what a loss sees: logits, labels and the step."""

import hashlib
from statistics import mean
from typing import Any

from trimtab.gym.judging import Rejected, Submitted

RUNS = 2
SECONDS = 150.0
LARGEST = 1e4
"""of a gradient"""


def validate(submitted: Submitted) -> dict[str, list[dict[str, Any]]]:
    submitted.text("outputs/loss.py", 100_000)
    key = (submitted.hidden / "key.txt").read_text().strip()
    train = submitted.module("workspace/train.py")
    models = [_trained(submitted, train, key, run) for run in range(RUNS)]
    found = {
        split: mean(train.accuracy(model, number_of(f"{key} {split}")) for model in models)
        for split in ("public", "private")
    }
    return {split: [{"name": "accuracy", "value": value}] for split, value in found.items()}


def _trained(submitted: Submitted, train: Any, key: str, run: int) -> Any:
    """A network, trained with gradients that a sandbox computes."""
    import torch

    given = {"serve.py": submitted.task / "workspace" / "serve.py"}
    with submitted.talk(["python3", "serve.py"], SECONDS, given) as talk:

        def gradient(logits: torch.Tensor, labels: torch.Tensor, step: int) -> torch.Tensor:
            said = talk.ask({"logits": logits.tolist(), "labels": labels.tolist(), "step": step})
            try:
                found = torch.tensor(said, dtype=torch.float32)
            except (TypeError, ValueError, RuntimeError, OverflowError):
                raise Rejected(f"outputs/loss.py: no gradient came back at step {step}") from None
            if found.shape != logits.shape:
                raise Rejected(f"outputs/loss.py: the gradient at step {step} has shape {list(found.shape)}")
            if not found.abs().max() <= LARGEST:
                raise Rejected(f"outputs/loss.py: the gradient at step {step} is not finite, or beyond {LARGEST:g}")
            return found

        data, seed = number_of(f"{key} data {run}"), number_of(f"{key} order {run} {submitted.seed}")
        return train.trained(gradient, data, seed)


def number_of(text: str) -> int:
    """A seed that nobody guesses who has not the key."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])
