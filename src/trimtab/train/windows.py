"""Windows of rows that are repeated several times."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch.utils.data import Sampler

from trimtab.common.errors import UserError

T = TypeVar("T")


def windowed(order: Sequence[T], window: int, times: int) -> Iterator[T]:
    """Each whole window of what comes `times` times before the next one."""
    for start in range(0, len(order) - window + 1, window):
        for _ in range(times):
            yield from order[start : start + window]


class WindowSampler(Sampler[int]):
    """Shuffles the rows each epoch, splits them into windows of `window` rows over all processes, and repeats each
    window `times` times. Rows that do not fill the last window of an epoch are dropped from it."""

    generator: torch.Generator | None = None
    """of the orders, see `EpochOrder`"""

    def __init__(self, rows: int, window: int, times: int):
        if rows < window:
            raise UserError(
                f"{rows} training rows do not fill a window of {window}; lower options.refresh or the batch size"
            )
        self.rows, self.window, self.times = rows, window, times

    def __len__(self) -> int:
        return self.rows // self.window * self.window * self.times

    def __iter__(self) -> Iterator[int]:
        yield from windowed(torch.randperm(self.rows, generator=self.generator).tolist(), self.window, self.times)
