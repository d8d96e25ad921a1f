"""Rows for TRL's trainers without Arrow, which merges the keys of objects and refuses mixed types."""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import datasets
from torch.utils.data import Dataset


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns that any of the rows has, in the order in which they come."""
    return list(dict.fromkeys(key for row in rows for key in row))


class Rows(Dataset):
    """Rows as Python objects; each is a copy, so that nothing that reads one changes it for the next epoch.

    A column that a row does not have is None there, as TRL expects every row to have every column.
    """

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
        """What TRL's constructors look at: they refuse what is no dataset of Arrow's."""
        return datasets.Dataset.from_dict({"row_id": list(range(len(self)))})


def _copy(value: Any) -> Any:
    """Lists of numbers, which nothing changes, are not gone through."""
    numbers = isinstance(value, list) and (not value or type(value[0]) in (int, float))
    return value if numbers else deepcopy(value)
