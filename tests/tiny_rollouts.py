"""Answers that a policy might have written, with rewards and what readers might say of them."""

import torch
from torch import Tensor

from trimtab.core import Candidates, Rollouts, TokenBatch


class Reader:
    """Provides signals by name, for plans that are built and not run."""

    def __init__(self, *names: str):
        self.provides = frozenset(names)

    def labels_only(self) -> "Reader":
        return self


def rollouts(
    lengths: tuple[int, ...],
    rewards: list[float],
    group: list[int] | None = None,
    candidates: Candidates | None = None,
    **signals: list | Tensor,
) -> Rollouts:
    """Answers of so many tokens; all to one prompt if no groups are given."""
    labels = torch.full((len(lengths), max(lengths) + 1), -100)
    for i, length in enumerate(lengths):
        labels[i, 1 : 1 + length] = 3
    return Rollouts(
        TokenBatch.from_labels(labels),
        torch.tensor(rewards),
        torch.tensor([0] * len(lengths) if group is None else group),
        {name: torch.as_tensor(value) for name, value in signals.items()},
        candidates,
    )
