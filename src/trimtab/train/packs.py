"""The packs of an epoch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Any

import torch
from torch.utils.data import Sampler

from trimtab.data.packs import fit, size_of
from trimtab.data.rows import sequences
from trimtab.data.shared_prefixes import saved
from trimtab.train.windows import windowed


@dataclass(frozen=True)
class Packing:
    """How rows are packed in each epoch. All epochs have the same number of packs."""

    sizes: Sequence[int]
    """tokens of each row"""
    limit: int
    """most tokens of a pack"""
    multiple: int
    """of which the number of packs is one, so that all batches are full"""

    def packs(self, order: Sequence[int] | None = None) -> list[list[int]]:
        """Indices of the rows of each pack; `order` as of `fit`."""
        return fit(self.sizes, self.limit, order, self.multiple)

    @cached_property
    def number(self) -> int:
        """of packs"""
        return len(self.packs())

    @property
    def filled(self) -> float:
        """Share of the packs that is tokens."""
        return sum(self.sizes) / (self.number * self.limit)

    def __str__(self) -> str:
        return (
            f"{len(self.sizes)} rows in {self.number} {'pack' if self.number == 1 else 'packs'} of at most "
            f"{self.limit} tokens, {self.filled:.0%} of them filled"
        )


def packing_of(
    args: Any, rows: Sequence[Mapping[str, Any]], limit: int, window: tuple[int, int] | None = None
) -> Packing | None:
    """The packing that a run asks for, if any.

    Args:
        args: of `settings.build`.
        rows: prepared.
        limit: most tokens of a row.
        window: see `Requirements.window`.
    """
    if not getattr(args, "packing", False):
        return None
    batch = args.train_batch_size * args.world_size
    if window is not None:
        multiple = window[0] * batch * args.gradient_accumulation_steps
    else:
        multiple = batch if args.world_size > 1 or args.dataloader_drop_last else 1
    return Packing([size_of(row) for row in rows], limit, multiple)


def note_of_shared(args: Any, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """What `training.share_prefixes` saves, from the first batches in the order of the rows or in one like it.

    Args:
        args: of `settings.build`.
        rows: prepared.
    """
    if not args.share_prefixes:
        return None
    size, in_order = args.train_batch_size, range(min(len(rows), NOTED * args.train_batch_size))
    shuffled = Random(0).sample(range(len(rows)), len(in_order))

    def share(order: Sequence[int]) -> float:
        return saved([[ids for ids, _ in sequences(rows[i])] for i in order], size)

    best, sequential = share(in_order), args.train_sampling_strategy == "sequential"
    found = best if sequential else share(shuffled)
    said = f"training.share_prefixes: in batches of {size} rows, {found:.0%} of the padded tokens need not be read"
    if sequential or best < 1.5 * found:
        return said
    return f"{said}; with training.train_sampling_strategy: sequential it would be {best:.0%}"


NOTED = 20
"""batches that are looked at"""


class PackSampler(Sampler[list[int]]):
    """Gives the rows of one pack after the other, of all packs each epoch.

    Rows are shuffled before they are packed and packs are shuffled after it: rows of the same length change places from
    epoch to epoch, and the order of the packs has nothing to do with lengths.

    Args:
        shuffled: whether that is so; else packs are the same in every epoch, in the order of their first rows.
        window: packs that are repeated before the next ones, and how often.
    """

    generator: torch.Generator | None = None
    """of the orders, see `EpochOrder`"""

    def __init__(self, packing: Packing, shuffled: bool = True, window: tuple[int, int] | None = None):
        self.packing, self.shuffled, self.window = packing, shuffled, window

    def __len__(self) -> int:
        number = self.packing.number
        if self.window is None:
            return number
        size, times = self.window
        return number // size * size * times

    def __iter__(self) -> Iterator[list[int]]:
        if self.shuffled:
            packs = self.packing.packs(self._order(len(self.packing.sizes)))
            packs = [packs[i] for i in self._order(len(packs))]
        else:
            packs = sorted(map(sorted, self.packing.packs()))
        yield from packs if self.window is None else windowed(packs, *self.window)

    def _order(self, number: int) -> list[int]:
        return torch.randperm(number, generator=self.generator).tolist()
