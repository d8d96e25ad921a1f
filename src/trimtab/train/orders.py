"""The order of the rows."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Sampler


class EpochOrder(Sampler[int]):
    """A sampler whose draws depend on the seed and the epoch alone.

    Samplers of transformers and TRL draw from the global generator or from one of their own, which a resumed run finds
    in another state: it would go through the rest of the epoch in another order, some rows twice and some never.

    Args:
        sampler: that takes its draws from its attribute `generator`.
        seed: of the orders.
    """

    def __init__(self, sampler: Any, seed: int):
        self.sampler, self.seed, self.epoch = sampler, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        # the first epoch is that of TRL and accelerate; later ones must not be the first one of another seed
        seed = self.seed if self.epoch == 0 else hash((self.seed, self.epoch)) % 2**63
        self.sampler.generator = torch.Generator().manual_seed(seed)
        yield from self.sampler
