"""Windows of rows that are repeated several times."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from trimtab.common.errors import UserError


class WindowSampler(Sampler[int]):
    """Shuffle the rows each epoch, split them into windows, and repeat each window `times` times in a row.

    Rows that do not fill the last window of an epoch are dropped from it; the next epoch has another order.

    Args:
        rows: in the dataset.
        window: rows of one window, over all processes.
        times: how often each is given.

    Raises:
        ValueError: if the rows do not fill one window.
    """

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
        order = torch.randperm(self.rows, generator=self.generator).tolist()
        for start in range(0, self.rows - self.window + 1, self.window):
            for _ in range(self.times):
                yield from order[start : start + self.window]
