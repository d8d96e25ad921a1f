"""Rows for TRL's trainers without Arrow, which merges the keys of objects and refuses mixed types."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import datasets
import torch
from torch.utils.data import Dataset

from trimtab.core.batch import ATTRIBUTED, IGNORE
from trimtab.core.draws import hashed_uniform
from trimtab.data.alignment import OUTSIDE
from trimtab.data.rationales import draw
from trimtab.data.rows import LENGTHS
from trimtab.data.two_tokenizers import SEGMENT


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of any of the rows, in order of appearance."""
    return list(dict.fromkeys(key for row in rows for key in row))


class Rows(Dataset):
    """Rows as Python objects, copied when they are read. Missing columns are None, as TRL expects the same columns in
    every row."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]):
        self.rows = rows
        self.column_names = columns_of(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | list[int]) -> Any:
        """A row, or those of a pack."""
        if isinstance(index, list):
            return [self[one] for one in index]
        if index >= len(self):
            return without_answer(self[index % len(self)])
        return self.row(index)

    def row(self, index: int) -> dict[str, Any]:
        """A row by its place."""
        row = self.rows[index]
        return {name: _copy(row.get(name)) for name in self.column_names}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def placeholder(self) -> datasets.Dataset:
        """An Arrow dataset of the same length for TRL's constructors, which refuse others."""
        return datasets.Dataset.from_dict({"row_id": list(range(len(self)))})


class DrawnRationales(Rows):
    """Questions with several rationales: each epoch gives two different ones of each, a pair for the collator.

    The draws depend on the seed, the epoch and the row alone, so accumulation, the number of processes and a resume
    leave them unchanged. The first one is drawn from all, the second from the others.

    Args:
        rows: as of `trimtab.data.rationales.prepare_rationales`.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], seed: int):
        super().__init__(rows)
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()  # seen by workers of the loader that stay
        self.column_names = list(self[0])

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)

    def row(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        number = len(row[LENGTHS])
        ids, place = torch.full((2,), row["row_id"]), torch.arange(2)
        uniform = hashed_uniform(self.seed, int(self.epoch), ids, place, STREAM).double()
        first, second = (uniform * torch.tensor([number, number - 1])).long().tolist()
        return draw(row, first, second + (second >= first))


def without_answer(row: dict[str, Any]) -> dict[str, Any]:
    """A prepared row of which nothing is learnt: it fills a batch. A row with the label of a class stays as it is."""
    blank = dict(row)
    for name, value in row.items():
        if isinstance(value, list) and name.endswith("labels"):
            blank[name] = [IGNORE] * len(value)
        elif isinstance(value, list) and name.endswith(SEGMENT):
            blank[name] = [OUTSIDE] * len(value)
        elif isinstance(value, list) and name == ATTRIBUTED:
            blank[name] = [0] * len(value)
    return blank


STREAM = 2310
"""of the draws of rationales"""


def _copy(value: Any) -> Any:
    """A deep copy, except of lists of numbers, which nothing changes."""
    numbers = isinstance(value, list) and (not value or type(value[0]) in (int, float))
    return value if numbers else deepcopy(value)
