"""Windows of rows that are repeated several times."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from trimtab.common.errors import UserError


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
        order = torch.randperm(self.rows, generator=self.generator).tolist()
        for start in range(0, self.rows - self.window + 1, self.window):
            for _ in range(self.times):
                yield from order[start : start + self.window]
