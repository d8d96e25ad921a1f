"""The order of the rows."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Sampler


class EpochOrder(Sampler[int]):
    """A sampler whose order depends on the seed and the epoch alone, so that a resumed run repeats none of the rows.

    Args:
        sampler: draws from its attribute `generator`.
        multiple: the order is filled up to a multiple of it with numbers from the length of the sampler on, so that all
            processes have full batches and no row comes twice; `Rows` gives rows without answer tokens for them.
    """

    def __init__(self, sampler: Any, seed: int, multiple: int = 1):
        self.sampler, self.seed, self.multiple, self.epoch = sampler, seed, multiple, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.multiple) * self.multiple

    def __iter__(self) -> Iterator[int]:
        # the first epoch's is that of TRL and accelerate; later ones must not be those of another seed
        seed = self.seed if self.epoch == 0 else hash((self.seed, self.epoch)) % 2**63
        self.sampler.generator = torch.Generator().manual_seed(seed)
        yield from self.sampler
        yield from range(len(self.sampler), len(self))
