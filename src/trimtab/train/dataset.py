"""Rows for TRL's trainers without Arrow, which merges the keys of objects and refuses mixed types."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import datasets
from torch.utils.data import Dataset


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

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        return {name: _copy(row.get(name)) for name in self.column_names}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def placeholder(self) -> datasets.Dataset:
        """An Arrow dataset of the same length for TRL's constructors, which refuse others."""
        return datasets.Dataset.from_dict({"row_id": list(range(len(self)))})


def _copy(value: Any) -> Any:
    """A deep copy, except of lists of numbers, which nothing changes."""
    numbers = isinstance(value, list) and (not value or type(value[0]) in (int, float))
    return value if numbers else deepcopy(value)
