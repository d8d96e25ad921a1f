"""Rows of a batch that begin alike are read once: where each has its place if what they share is not repeated."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import eq
from typing import Any

import torch
from torch import Tensor

from trimtab.data.collate import Collator
from trimtab.data.packs import fit

LEAST = 0.25
"""share of a row that has to begin as another one does"""
MOST = 2
"""times the longest row of a batch: most tokens of a pack, as attention is paid for by its square"""


@dataclass(frozen=True)
class SharedPrefixes:
    """A collator whose batches have the `place` [B, 3] of each row, where that saves tokens."""

    collator: Collator

    def __call__(self, rows: Sequence[Any]) -> dict[str, Tensor]:
        batch = self.collator(rows)
        lengths = batch["attention_mask"].sum(dim=1).tolist()
        found = shared_places([ids[:size] for ids, size in zip(batch["input_ids"].tolist(), lengths)])
        return batch if found is None else batch | {"place": found}


def shared_places(rows: Sequence[Sequence[int]]) -> Tensor | None:
    """Places in packs in which rows that begin alike have their beginning in common.

    Args:
        rows: token ids of each.

    Returns:
        [B, 3] int64 the pack of each row, where its own tokens start in it, and how many tokens before them it shares
        with the row that stands before it; see `trimtab.models.packing`. None if padded rows are no more tokens.
    """
    packs, read = _packed(rows)
    if read >= _padded(rows):
        return None
    found = torch.empty(len(rows), 3, dtype=torch.long)
    for number, pack in enumerate(packs):
        start = 0
        for i, shared in pack:
            found[i] = torch.tensor([number, start, shared])
            start += len(rows[i]) - shared
    return found


def saved(rows: Sequence[Sequence[Sequence[int]]], size: int) -> float:
    """Share of the padded tokens of batches that need not be read.

    Args:
        rows: token ids of the sequences of each row, in the order in which they come.
        size: rows of a batch.
    """
    padded = read = 0
    for start in range(0, len(rows), size):
        ids = [one for row in rows[start : start + size] for one in row]
        padded += _padded(ids)
        read += min(_padded(ids), _packed(ids)[1])
    return 1 - read / padded


def _padded(rows: Sequence[Sequence[int]]) -> int:
    """Tokens of rows that are padded to the longest one."""
    return len(rows) * max(map(len, rows))


def _packed(rows: Sequence[Sequence[int]]) -> tuple[list[list[tuple[int, int]]], int]:
    """Packs of rows in order, (row, tokens shared with the one before it), and the tokens of all packs."""
    trunks = _trunks(rows)
    sizes = [sum(len(rows[i]) - shared for i, shared in trunk) for trunk in trunks]
    packs = fit(sizes, max(sizes))
    width = max(sum(sizes[trunk] for trunk in pack) for pack in packs)
    return [[one for trunk in pack for one in trunks[trunk]] for pack in packs], len(packs) * width


def _trunks(rows: Sequence[Sequence[int]]) -> list[list[tuple[int, int]]]:
    """Rows that begin alike in order, so that each shares most with the one before it: (row, tokens shared)."""
    limit = MOST * max(map(len, rows))
    order = sorted(range(len(rows)), key=lambda i: list(rows[i]))
    trunks: list[list[tuple[int, int]]] = []
    size = 0
    for before, i in zip([None, *order], order):
        row = rows[i]
        # a row keeps a token of its own, even one that stands there twice
        shared = 0 if before is None else min(_alike(rows[before], row), len(row) - 1)
        if shared < LEAST * len(row) or size + len(row) - shared > limit:
            shared, size = 0, 0
            trunks.append([])
        trunks[-1].append((i, shared))
        size += len(row) - shared
    return trunks


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens with which both begin."""
    return sum(takewhile(bool, map(eq, one, other)))
